"""What is not here, or damaged, comes from the mirror: a run at its first start, a checkpoint at its restore.

The store is asked by a process of its own: libraries that reach stores leave threads behind, and what
is forked from there cannot use them.
"""

from __future__ import annotations

import os
import subprocess
import time
from collections.abc import Sequence
from typing import TYPE_CHECKING

from holdfast.errors import BusyError, DamagedError, NotFoundError, StorageError
from holdfast.node.commands import command, environment, last_error
from holdfast.repository.repository import Repository
from holdfast.storage.urls import open_storage
from holdfast.training import console

if TYPE_CHECKING:
    from holdfast.domain.mirrors import Mirror
    from holdfast.domain.names import CheckpointId
    from holdfast.repository.run import Run

BUSY_SECONDS = 300.0
"""How long to wait for another that fetches the run: a launch that was killed has left it."""
PAUSE_SECONDS = 0.5


def fetch(location: str | os.PathLike[str], run: str, mirrors: Sequence[Mirror]) -> bool:
    """Bring what the run resumes from, where there is no checkpoint of it here; whether something came.

    Of several mirrors each is asked, so the newest of what they have is here afterwards. Of one whose
    recovery point is damaged an older one comes, as a launch at the mirror would take it.

    Raises
    ------
    StorageError
        Nothing came, and a mirror does not answer: to begin anew would part the two for ever.
    """
    if _is_here(location, run):
        return False
    came, failed = [], {}
    for mirror in mirrors:
        done = _asked_until_free(location, run, mirror.place)
        gave = done.returncode in (0, DamagedError.exit_code) and _is_here(location, run)
        if gave:
            came.append(mirror.place)
        if gave and done.returncode:
            console.say(f"not all that the mirror {mirror.place} has could be brought: {_said(done)}")
        elif done.returncode not in (0, NotFoundError.exit_code):
            failed[mirror.place] = _said(done)
    for place, why in failed.items():
        if not came:
            raise StorageError(
                f"There is no checkpoint of {run} here, and its mirror {place} could not be asked: {why}",
                do="Mend that, or leave mirror= out to begin anew.",
            )
        console.say(f"the mirror {place} could not be asked: {why}")
    if came:
        console.say(f"run {run} is not here; what it resumes from came from {' and '.join(came)}")
    return bool(came)


def _asked_until_free(
    location: str | os.PathLike[str], run: str, place: str
) -> subprocess.CompletedProcess[str]:
    done = _asked(location, run, place)
    until = time.monotonic() + BUSY_SECONDS
    while done.returncode == BusyError.exit_code and time.monotonic() < until:
        time.sleep(PAUSE_SECONDS)
        done = _asked(location, run, place)
    return done


def mend(run: Run, checkpoint: CheckpointId, mirror: str) -> bool:
    """Let a damaged checkpoint be made whole by what a mirror has; whether it is."""
    what = f"{run.name}@{checkpoint.step} is damaged here"
    console.say(f"{what}; what is lacking is asked of its mirror {mirror}")
    address = f"{run.name}@{checkpoint}"  # another one may have the same step
    done = _run("verify", address, "--repair-from", mirror, "-R", run.storage.location)
    if done.returncode not in (0, DamagedError.exit_code):
        console.say(f"the mirror could not be asked: {_said(done)}")
    return done.returncode == 0


def _said(done: subprocess.CompletedProcess[str]) -> str:
    return last_error(done.stderr, done.returncode)


def _asked(location: str | os.PathLike[str], run: str, mirror: str) -> subprocess.CompletedProcess[str]:
    return _run("sync", "--latest", mirror, os.fspath(location), run)


def _run(*arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        command(*arguments),
        stdin=subprocess.DEVNULL,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        text=True,
        env=environment(),
        check=False,
    )


def _is_here(location: str | os.PathLike[str], run: str) -> bool:
    """Whether a checkpoint is there, and a line: a sync that was cut short may have brought none."""
    try:
        here = Repository.open(open_storage(location)).run(run)
        return bool(here.all_checkpoints()) and any(a.based for a in here.attempts())
    except NotFoundError:
        return False
