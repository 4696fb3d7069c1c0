"""A run that is not here yet starts from its mirror.

The store is asked by a process of its own: libraries that reach stores leave threads behind, and what
is forked from there cannot use them.
"""

from __future__ import annotations

import os
import subprocess
import time

from holdfast.errors import BusyError, NotFoundError, StorageError
from holdfast.node.commands import command, environment, last_error
from holdfast.repository.repository import Repository
from holdfast.storage.urls import open_storage
from holdfast.training import console

BUSY_SECONDS = 300.0
"""How long to wait for another that fetches the run: a launch that was killed has left it."""
PAUSE_SECONDS = 0.5


def fetch(location: str | os.PathLike[str], run: str, mirror: str) -> bool:
    """Bring what the run resumes from, where there is no checkpoint of it here; whether something came.

    Raises
    ------
    StorageError
        The mirror does not answer: to begin anew would part the two for ever.
    """
    if _is_here(location, run):
        return False
    done = _asked(location, run, mirror)
    until = time.monotonic() + BUSY_SECONDS
    while done.returncode == BusyError.exit_code and time.monotonic() < until:
        time.sleep(PAUSE_SECONDS)
        done = _asked(location, run, mirror)
    if done.returncode not in (0, NotFoundError.exit_code):
        why = last_error(done.stderr, done.returncode)
        raise StorageError(
            f"There is no checkpoint of {run} here, and its mirror {mirror} could not be asked: {why}",
            do="Mend that, or leave mirror= out to begin anew.",
        )
    if done.returncode == 0:
        console.say(f"run {run} is not here; what it resumes from came from {mirror}")
    return done.returncode == 0


def _asked(location: str | os.PathLike[str], run: str, mirror: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        command("sync", "--latest", mirror, os.fspath(location), run),
        stdin=subprocess.DEVNULL,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        text=True,
        env=environment(),
        check=False,
    )


def _is_here(location: str | os.PathLike[str], run: str) -> bool:
    try:
        return bool(Repository.open(open_storage(location)).run(run).all_checkpoints())
    except NotFoundError:
        return False
