"""Signals as things to wait for: blocked, so that none is missed between two looks, and no handler runs."""

from __future__ import annotations

import signal
from collections.abc import Iterator
from contextlib import contextmanager
from types import TracebackType
from typing import Self

_HEARD = frozenset({signal.SIGTERM, signal.SIGINT, signal.SIGHUP, signal.SIGUSR1, signal.SIGCHLD})


class Signals:
    """While it is entered, the signals of this process are waited for.

    Attributes
    ----------
    terminal_gone : bool
        SIGHUP was heard: whatever is printed from now on fails.
    """

    def __init__(self) -> None:
        self.terminal_gone = False
        self._before: set[int] = set()

    def __enter__(self) -> Self:
        self._before = {int(number) for number in signal.pthread_sigmask(signal.SIG_BLOCK, _HEARD)}
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        while signal.sigtimedwait(_HEARD - self._before, 0) is not None:
            pass  # a second Ctrl-C, say: it was obeyed already
        signal.pthread_sigmask(signal.SIG_SETMASK, self._before)

    def wait(self, seconds: float) -> signal.Signals | None:
        """The next signal that arrives within that time; a child's end is one, too."""
        heard = signal.sigtimedwait(_HEARD, max(seconds, 0.0))
        if heard is None or heard.si_signo not in _HEARD:  # 0 where a SIGSTOP has outlasted the time
            return None
        number = signal.Signals(heard.si_signo)
        self.terminal_gone = self.terminal_gone or number is signal.SIGHUP
        return number


@contextmanager
def unheard_by_threads() -> Iterator[None]:
    """Threads that begin meanwhile never take a signal that is waited for: it would end the process."""
    before = signal.pthread_sigmask(signal.SIG_BLOCK, _HEARD)
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)
