"""The world → flags: signals and requests, looked at only at safe points."""

from __future__ import annotations

import os
import signal
import threading
import time
from collections.abc import Callable
from types import FrameType
from typing import Any

from holdfast.errors import HoldfastError
from holdfast.repository import records
from holdfast.repository.run import Run

REQUEST_POLL_SECONDS = 1.0
_LEAVE = (signal.SIGTERM, signal.SIGINT)


class Triggers:
    """Flags that signals set; the handlers do nothing else.

    Attributes
    ----------
    leaving : signal.Signals or None
        The signal that asks to save and end.
    save_asked : bool
        SIGUSR1 asks to save and go on.
    """

    def __init__(self, grace_seconds: float) -> None:
        self.leaving: signal.Signals | None = None
        self.save_asked = False
        self._grace_seconds = grace_seconds
        self._grace_over = False
        self._timer: threading.Timer | None = None
        self._previous: dict[signal.Signals, Any] = {}
        self._pid = os.getpid()

    def install(self) -> None:
        """Take over SIGTERM, SIGINT and SIGUSR1; only possible in the main thread."""
        if threading.current_thread() is not threading.main_thread():
            return
        for number in (*_LEAVE, signal.SIGUSR1):
            self._previous[number] = signal.signal(number, self._handle)

    def uninstall(self) -> None:
        """Put back what was there before."""
        if self._timer is not None:
            self._timer.cancel()
        for number, handler in self._previous.items():
            if signal.getsignal(number) == self._handle:
                signal.signal(number, handler if handler is not None else signal.SIG_DFL)
        self._previous.clear()

    def leave(self) -> None:
        """End the process's training as the signal asks: its former handler first, then 143 or ^C."""
        number = self.leaving or signal.SIGTERM
        previous = self._previous.get(number)
        self.uninstall()
        if callable(previous):
            previous(number, None)
        if number == signal.SIGINT:
            raise KeyboardInterrupt
        raise SystemExit(128 + number)

    def _handle(self, number: int, frame: FrameType | None) -> None:
        if os.getpid() != self._pid:
            _as_if_never_handled(number)
        elif number == signal.SIGUSR1:
            self.save_asked = True
        elif self._grace_over or (number == signal.SIGINT and self.leaving is not None):
            self.leaving = signal.Signals(number)
            self.leave()
        elif self.leaving is None:
            self.leaving = signal.Signals(number)
            self._start_grace(number)

    def _start_grace(self, number: int) -> None:
        self._timer = threading.Timer(self._grace_seconds, self._end_grace, (number,))
        self._timer.daemon = True
        self._timer.start()

    def _end_grace(self, number: int) -> None:
        self._grace_over = True
        signal.pthread_kill(threading.main_thread().ident or 0, number)

    def guard_workers(self) -> None:
        """Keep the death of data workers from costing the save.

        A signal to the whole process group kills data workers first, and the frameworks'
        SIGCHLD handlers then raise in the middle of a step. While leaving, they are not called.
        """
        if not self._previous:
            return
        handler = signal.getsignal(signal.SIGCHLD)
        if callable(handler) and not isinstance(handler, _WorkerGuard):
            signal.signal(signal.SIGCHLD, _WorkerGuard(handler, self))


class _WorkerGuard:
    def __init__(self, handler: Callable[[int, FrameType | None], Any], triggers: Triggers) -> None:
        self._handler = handler
        self._triggers = triggers

    def __call__(self, number: int, frame: FrameType | None) -> None:
        if self._triggers.leaving is None:
            self._handler(number, frame)


def _as_if_never_handled(number: int) -> None:
    """In a forked child, such as a data worker, the signal means what it always meant."""
    signal.signal(number, signal.SIG_DFL)
    os.kill(os.getpid(), number)


class Requests:
    """Requests for a save that other processes wrote into the run."""

    def __init__(self, run: Run) -> None:
        self._run = run
        self._looked = time.monotonic()

    def poll(self, *, now: bool = False) -> list[records.RequestRecord]:
        """New requests; the storage is asked at most once a second."""
        if not now and time.monotonic() - self._looked < REQUEST_POLL_SECONDS:
            return []
        self._looked = time.monotonic()
        found = []
        try:
            for key in self._run.storage.list(self._run.layout.requests):
                record = records.read_or_none(self._run.storage, key, records.RequestRecord)
                self._run.storage.delete(key)
                found += [record] if record is not None else []
        except HoldfastError:
            return found  # a request is not worth a training run
        return found
