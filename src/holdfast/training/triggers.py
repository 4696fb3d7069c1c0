"""The world → flags: signals and requests, looked at only at safe points."""

from __future__ import annotations

import os
import signal
import threading
import time
from collections.abc import Callable
from types import FrameType
from typing import Any, NoReturn

from holdfast.domain.names import validate_tag
from holdfast.errors import HoldfastError, UsageError
from holdfast.repository import records
from holdfast.repository.run import Run

REQUEST_POLL_SECONDS = 1.0
_LEAVE = (signal.SIGTERM, signal.SIGINT)
_LATE_SECONDS = 0.3
"""How long after its data workers a process may learn that the whole group was told to end."""


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
        self._saving = False
        self._timer: threading.Timer | None = None
        self._previous: dict[int, Any] = {}
        self._active = False
        self._pid = os.getpid()

    def install(self) -> bool:
        """Take over SIGTERM, SIGINT and SIGUSR1, as far as they are not ignored.

        Returns
        -------
        bool
            Whether it was possible: Python allows it in the main thread only.
        """
        if not _in_main_thread():
            return False
        self._active = True
        for number in (*_LEAVE, signal.SIGUSR1):
            if signal.getsignal(number) is not signal.SIG_IGN:
                self._previous[number] = signal.signal(number, self._handle)
        return True

    def uninstall(self) -> None:
        """Put back what was there before; where others built on our handlers, those pass signals on."""
        self._stop_listening()
        guard = signal.getsignal(signal.SIGCHLD)
        if _in_main_thread() and isinstance(guard, _WorkerGuard) and guard.triggers is self:
            signal.signal(signal.SIGCHLD, guard.handler)

    def _stop_listening(self) -> None:
        self._active = False
        if self._timer is not None:
            self._timer.cancel()
        if not _in_main_thread():
            return
        for number, handler in self._previous.items():
            if signal.getsignal(number) == self._handle:
                signal.signal(number, handler if handler is not None else signal.SIG_DFL)

    def begin_last_save(self) -> None:
        """A safe point was reached in time: the save that follows may take as long as it takes."""
        self._saving = True
        if self._timer is not None:
            self._timer.cancel()

    def leave(self) -> NoReturn:
        """End the process's training as the signal asks: its former handler first, then 143 or ^C.

        The guard of the workers stays until `uninstall`: they die while the loops are being left.
        """
        number = self.leaving or signal.SIGTERM
        previous = self._previous.get(number)
        self._stop_listening()
        if callable(previous):
            previous(number, None)
        if number == signal.SIGINT:
            raise KeyboardInterrupt
        raise SystemExit(128 + number)

    def leaving_soon(self) -> bool:
        """Whether a signal asked to end, or does so in the next moment: workers may learn of it first."""
        if self._active and _in_main_thread():
            deadline = time.monotonic() + _LATE_SECONDS
            while self.leaving is None and time.monotonic() < deadline:
                time.sleep(0.01)  # handlers run in between
        return self.leaving is not None

    def _handle(self, number: int, frame: FrameType | None) -> None:
        if os.getpid() != self._pid or not self._active:
            self._pass_on(number, frame)
        elif number == signal.SIGUSR1:
            self.save_asked = True
            if callable(self._previous[number]):
                self._previous[number](number, frame)
        elif self._out_of_time() or (number == signal.SIGINT and self.leaving is not None):
            self.leaving = signal.Signals(number)
            self.leave()
        elif self.leaving is None:
            self.leaving = signal.Signals(number)
            self._start_grace(number)

    def _pass_on(self, number: int, frame: FrameType | None) -> None:
        """In a forked child, such as a data worker, the signal means what it always meant."""
        previous = self._previous.get(number)
        if callable(previous):
            previous(number, frame)
        else:
            signal.signal(number, signal.SIG_DFL)
            os.kill(os.getpid(), number)

    def _out_of_time(self) -> bool:
        return self._grace_over and not self._saving

    def _start_grace(self, number: int) -> None:
        self._timer = threading.Timer(self._grace_seconds, self._end_grace, (number,))
        self._timer.daemon = True
        self._timer.start()

    def _end_grace(self, number: int) -> None:
        self._grace_over = True
        if self._active and not self._saving:
            signal.pthread_kill(threading.main_thread().ident or 0, number)

    def guard_workers(self) -> None:
        """Keep the death of data workers from costing the save.

        A signal to the whole process group kills data workers first, and the frameworks'
        SIGCHLD handlers then raise in the middle of a step. While leaving, they must not.
        """
        if not (self._active and _in_main_thread()):
            return
        handler = signal.getsignal(signal.SIGCHLD)
        if callable(handler) and not isinstance(handler, _WorkerGuard):
            signal.signal(signal.SIGCHLD, _WorkerGuard(handler, self))


class _WorkerGuard:
    """Stands before a framework's SIGCHLD handler."""

    def __init__(self, handler: Callable[[int, FrameType | None], Any], triggers: Triggers) -> None:
        self.handler = handler
        self.triggers = triggers

    def __call__(self, number: int, frame: FrameType | None) -> None:
        try:
            self.handler(number, frame)
        except Exception:
            if not self.triggers.leaving_soon():
                raise


def _in_main_thread() -> bool:
    return threading.current_thread() is threading.main_thread()


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
                found += [record] if record is not None and _is_sound(record) else []
        except HoldfastError:
            return found  # a request is not worth a training run
        return found


def _is_sound(request: records.RequestRecord) -> bool:
    try:
        return request.tag is None or validate_tag(request.tag) == request.tag
    except UsageError:
        return False
