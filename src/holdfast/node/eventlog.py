"""The log of events that processes of one machine share: a line each, appended at once, bounded.

It is for those who ask what happened. Nothing depends on it, so nothing waits for it or ends by it.
"""

from __future__ import annotations

import errno
import fcntl
import os
import socket
import sys
import time
from collections.abc import Callable, Mapping
from contextlib import suppress
from pathlib import Path

from holdfast.domain.event_lines import Writer, attempt_of, line
from holdfast.domain.events import Event, Listener, unheard

PLACE_VARIABLE = "HOLDFAST_LOG"
TRACE_VARIABLE = "HOLDFAST_TRACE"
"""Set by a supervisor for all below it."""
LIMIT_BYTES = 64 << 20
"""Then the file becomes ``….1`` in place of the one before, and another begins."""
STANDARD_ERROR = "-"
_FLAGS = os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_CLOEXEC | os.O_NONBLOCK
"""A pipe without a reader, or with one that sleeps, is an error rather than a wait."""


class EventLog:
    """Takes events and appends them; what goes wrong is said once.

    Parameters
    ----------
    place : str
        A file; a folder, for a file per run; ``-``: standard error.
    writer : Writer
    say : callable
        Takes a line for people.
    """

    def __init__(self, place: str, writer: Writer, say: Callable[[str], None]) -> None:
        self._place = place
        self._writer = writer
        self._say = say
        self._attempt: str | None = None
        self._works = True

    def __call__(self, event: Event) -> None:
        self._attempt = attempt_of(event) or self._attempt
        data = line(event, self._writer, self._attempt, time.time())
        try:
            self._append(event.run, data)
            self._works = True
        except OSError as error:
            if self._works:
                self._say(f"events cannot be written to {self._place}: {error.strerror}. All else goes on.")
            self._works = False

    def _append(self, run: str, data: bytes) -> None:
        if self._place == STANDARD_ERROR:
            sys.stderr.write(data.decode())
            sys.stderr.flush()
            return
        path = file_for(self._place, run)
        descriptor = os.open(path, _FLAGS, 0o600)
        try:
            if os.write(descriptor, data) < len(data):
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
            if os.fstat(descriptor).st_size > LIMIT_BYTES:
                _begin_another(path, descriptor)
        finally:
            os.close(descriptor)


def file_for(place: str, run: str) -> Path:
    """The file for a run's events; where a folder is given, what belongs to no run has one, too."""
    path = Path(place)
    return path / f"{run.replace('/', '.') or 'holdfast'}.jsonl" if path.is_dir() else path


def event_log(variables: Mapping[str, str], process: str, say: Callable[[str], None]) -> Listener:
    """The listener that the environment asks for."""
    place = variables.get(PLACE_VARIABLE)
    if not place:
        return unheard
    writer = Writer(process, socket.gethostname(), os.getpid(), variables.get(TRACE_VARIABLE) or None)
    whole = place if place == STANDARD_ERROR else str(Path(place).absolute())  # the script may go elsewhere
    return EventLog(whole, writer, say)


def _begin_another(path: Path, descriptor: int) -> None:
    """Put the full file aside, unless another process has just done so."""
    fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    with suppress(FileNotFoundError):
        if os.path.samestat(path.stat(), os.fstat(descriptor)):
            path.replace(f"{path}.1")
