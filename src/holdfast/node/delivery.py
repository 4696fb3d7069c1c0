"""Bringing things to a server that may be down, without training ever waiting for it."""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Callable

CAPACITY = 10_000
PAUSES_SECONDS = (1.0, 5.0, 15.0, 60.0)
"""Between tries; the last one again and again."""
Task = Callable[[], None]


class Delivery:
    """Does tasks in a thread of its own, in their order; one that fails is tried again.

    Parameters
    ----------
    name : str
        Of the server, for people.
    is_hopeless : callable
        Whether an error says that trying again is no use: that task is left out.
    say : callable
        Takes a line for people.
    """

    def __init__(
        self, name: str, is_hopeless: Callable[[Exception], bool], say: Callable[[str], None]
    ) -> None:
        self._name = name
        self._say = say
        self._is_hopeless = is_hopeless
        self._tasks: deque[Task] = deque()
        self._changed = threading.Condition()
        self._lost = self._failures = 0
        self._refusal = ""
        self._is_closing = self._is_closed = False
        self._thread: threading.Thread | None = None

    def put(self, task: Task) -> None:
        """Do it soon; never waits. What is more than `CAPACITY` is lost, and counted."""
        with self._changed:
            if len(self._tasks) >= CAPACITY:
                self._lost += 1
                return
            self._tasks.append(task)
            self._changed.notify()
        if self._thread is None:
            self._thread = threading.Thread(target=self._work, name=f"to {self._name}", daemon=True)
            self._thread.start()

    def close(self, patience_seconds: float) -> None:
        """Wait until all is done, or for so long; say what is lost."""
        with self._changed:
            self._is_closing = True
            self._changed.notify()
        if self._thread is not None:
            self._thread.join(patience_seconds)
        with self._changed:
            self._is_closed = True
            self._lost += len(self._tasks)
        if self._lost:
            self._say(f"{self._lost} messages to {self._name} are lost.")

    def _work(self) -> None:
        while (task := self._next()) is not None:
            try:
                task()
            except Exception as error:  # whatever the client library raises
                self._failed(error)
            else:
                self._succeeded()

    def _next(self) -> Task | None:
        """The first task, once there is one; None at the end."""
        with self._changed:
            while not self._tasks and not self._is_closing:
                self._changed.wait()
            return self._tasks[0] if self._tasks and not self._is_closed else None

    def _succeeded(self) -> None:
        with self._changed:
            self._tasks.popleft()
        if self._failures:
            self._say(f"{self._name} works again.")
        self._failures = 0

    def _failed(self, error: Exception) -> None:
        why = (str(error) or type(error).__name__).splitlines()[0][:300]
        if self._is_hopeless(error):
            with self._changed:
                self._tasks.popleft()
                self._lost += 1
            if why != self._refusal:  # one key that is wrong refuses every metric of every step
                self._say(f"{self._name} refuses something: {why}")
            self._refusal = why
            return
        if not self._failures:
            self._say(f"{self._name} does not take what it is sent; training goes on. {why}")
        pause_seconds = PAUSES_SECONDS[min(self._failures, len(PAUSES_SECONDS) - 1)]
        self._failures += 1
        with self._changed:
            self._changed.wait_for(lambda: self._is_closed, 1.0 if self._is_closing else pause_seconds)
