"""Watches the log of one supervised command, for metrics and notifications."""

from __future__ import annotations

import threading
from collections.abc import Callable, Sequence
from pathlib import Path

from holdfast.observe.following import Following, Record

LOOK_SECONDS = 0.5


class Observer:
    """Gives what comes into the log to all who take it, in a thread of its own.

    Parameters
    ----------
    place : Path
        Where the log is.
    trace : str
        Of the supervisor.
    takers : sequence of callable
    """

    def __init__(self, place: Path, trace: str, takers: Sequence[Callable[[Record], None]]) -> None:
        self._following = Following(place, trace)
        self._takers = takers
        self._reading = threading.Lock()
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._work, name="holdfast observer", daemon=True)
        self._thread.start()

    def look(self) -> None:
        """Take what there is now."""
        with self._reading:
            for record in self._following.new():
                for take in self._takers:
                    take(record)

    def close(self) -> None:
        """Take the rest, and end."""
        self._over.set()
        self._thread.join()
        self.look()
        self._following.close()

    def _work(self) -> None:
        while not self._over.wait(LOOK_SECONDS):
            self.look()
