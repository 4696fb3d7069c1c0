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

import msgspec

from holdfast.domain.names import AttemptId, CheckpointId
from holdfast.errors import BusyError, DamagedError, NotFoundError, StorageError
from holdfast.node.commands import command, environment, last_error
from holdfast.repository.repository import Repository
from holdfast.storage.urls import open_storage
from holdfast.training import console

if TYPE_CHECKING:
    from holdfast.domain.keep_rules import KeepRule
    from holdfast.domain.mirrors import Mirror
    from holdfast.repository.run import Run

BUSY_SECONDS = 300.0
"""How long to wait for another that fetches the run: a launch that was killed has left it."""
PAUSE_SECONDS = 0.5


def fetch(location: str | os.PathLike[str], run: str, mirrors: Sequence[Mirror], keep: KeepRule) -> bool:
    """Bring what the run resumes from, where there is no checkpoint of it here; whether something came.

    The best that ``keep`` names come from the same mirror: without them a worse one would be the best.
    Of several mirrors the one that has got furthest is asked first: a launch that is killed in here must
    not leave less than that, which the next one would go on from. Of one whose recovery point is
    damaged an older one comes, as a launch at the mirror would take it; then the others are asked, too.

    Raises
    ------
    StorageError
        Nothing came, and a mirror does not answer: to begin anew would part the two for ever.
    """
    if _is_here(location, run):
        return False
    came: list[str] = []
    failed: dict[str, str] = {}
    for mirror in mirrors if len(mirrors) == 1 else _furthest_first(run, mirrors, failed):
        done = _asked_until_free(location, run, mirror.place, keep)
        gave = done.returncode in (0, DamagedError.exit_code) and _is_here(location, run)
        if gave:
            came.append(mirror.place)
        if gave and done.returncode:
            console.say(f"not all that the mirror {mirror.place} has could be brought: {_said(done)}")
        elif done.returncode not in (0, NotFoundError.exit_code):
            failed[mirror.place] = _said(done)
        if gave and not done.returncode:
            break  # the others have beginnings of the same line
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


def _furthest_first(run: str, mirrors: Sequence[Mirror], failed: dict[str, str]) -> list[Mirror]:
    """Those that answer, by how far the run has got there; why the others do not is noted."""
    reached = {}
    for mirror in mirrors:
        done = _run("ls", f"[{run[0]}]{run[1:]}", "--json", "-R", mirror.place)  # as a pattern: in one line
        if done.returncode in (0, NotFoundError.exit_code):
            reached[mirror.place] = _reached(done.stdout)
        else:
            failed[mirror.place] = _said(done)
    found = [mirror for mirror in mirrors if mirror.place in reached]
    return sorted(found, key=lambda mirror: reached[mirror.place], reverse=True)


def _reached(told_json: str) -> tuple[int, int, int]:
    """The launch that counts there, then that of what it resumes from, and which of its saves that is."""
    runs = msgspec.json.decode(told_json)["runs"] if told_json else []
    attempt = AttemptId.parse(runs[0]["attempt"] or "") if runs else None
    latest = CheckpointId.parse(runs[0]["latest"]["id"]) if runs and runs[0]["latest"] else None
    if attempt is None or latest is None:
        return (0, 0, 0)
    return (attempt.number, latest.attempt.number, latest.sequence)


def _asked_until_free(
    location: str | os.PathLike[str], run: str, place: str, keep: KeepRule
) -> subprocess.CompletedProcess[str]:
    done = _asked(location, run, place, keep)
    until = time.monotonic() + BUSY_SECONDS
    while done.returncode == BusyError.exit_code and time.monotonic() < until:
        time.sleep(PAUSE_SECONDS)
        done = _asked(location, run, place, keep)
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


def _asked(
    location: str | os.PathLike[str], run: str, mirror: str, keep: KeepRule
) -> subprocess.CompletedProcess[str]:
    best = ["--keep", str(keep)] if keep.best else []
    return _run("sync", "--latest", *best, mirror, os.fspath(location), run)


def _run(*arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        command(*arguments),
        stdin=subprocess.DEVNULL,
        capture_output=True,
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
