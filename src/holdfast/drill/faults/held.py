"""What is done to a process for a while, and undone also if the drill is killed meanwhile."""

from __future__ import annotations

import signal
import subprocess
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from holdfast.node import groups

_WAITS = 'read -r _; for one; do {} "$one"; done 2>/dev/null'
"""For a line that never comes: its input ends when the drill closes it, or dies."""


class Afterwards:
    """A command for each of some things, run when it is asked for, or when this process dies before that.

    Parameters
    ----------
    command : str
        For a shell; one of the things comes behind it.
    things : sequence
        Processes or folders, say.
    folder : Path, optional
        Where to run it.
    """

    def __init__(self, command: str, things: Sequence[int | str], folder: Path | None = None) -> None:
        self._shell = subprocess.Popen(
            ["sh", "-c", _WAITS.format(command), "sh", *map(str, things)],
            stdin=subprocess.PIPE,
            stdout=subprocess.DEVNULL,
            cwd=folder,
            start_new_session=True,  # what ends the drill's group must not end it
        )

    def now(self) -> None:
        """Do it, and wait until it is done."""
        self._shell.communicate()


def hold(pids: Sequence[int]) -> Afterwards:
    """Stop processes; they go on afterwards."""
    afterwards = Afterwards("kill -CONT", pids)
    for pid in pids:
        groups.send(pid, signal.SIGSTOP)
    return afterwards


@contextmanager
def held(pid: int) -> Iterator[None]:
    """Stop a process for as long as this lasts."""
    afterwards = hold([pid])
    try:
        yield
    finally:
        afterwards.now()
