"""The sessions that this process has entered and not left, outermost first."""

from __future__ import annotations

import os
from typing import Protocol

from holdfast.repository.run import Run


class Open(Protocol):
    """A session, as far as others of the same process have to do with it."""

    pid: int
    run: Run

    def abandon(self) -> None:
        """Let go of everything: another session takes its place."""
        ...


_open: list[Open] = []


def any_open() -> bool:
    """Whether this process is inside a Checkpointer already."""
    return any(session.pid == os.getpid() for session in _open)


def add(session: Open) -> None:
    _open.append(session)


def remove(session: Open) -> None:
    if session in _open:
        _open.remove(session)


def take_over(run: Run) -> bool:
    """Put an end to what this process, a notebook perhaps, left open of this very run.

    Returns
    -------
    bool
        Whether no other is open: who comes now is the outermost.
    """
    _open[:] = [session for session in _open if session.pid == os.getpid()]  # not those of a parent
    for other in list(_open):
        if (other.run.storage.location, other.run.name) == (run.storage.location, run.name):
            other.abandon()
    return not any_open()
