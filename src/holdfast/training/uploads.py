"""Which checkpoints are at the mirrors."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterable
from contextlib import suppress
from typing import TYPE_CHECKING

from holdfast.domain.mirrors import Mirror
from holdfast.errors import HoldfastError, UsageError
from holdfast.training import console

if TYPE_CHECKING:
    from holdfast.repository.run import Run

_LISTEN_SECONDS = 0.5


class Uploads:
    """What is told of each mirror.

    Parameters
    ----------
    mirrors : iterable of Mirror
    listen : callable
        Hears what is told within so many seconds.
    """

    def __init__(self, mirrors: Iterable[Mirror], listen: Callable[[float], None]) -> None:
        self._newest = {mirror.place: 0 for mirror in mirrors}
        self._listen = listen

    def note(self, place: str, sequence: int) -> None:
        """Checkpoints up to this one, or newer ones in their place, are there."""
        self._newest[place] = max(self._newest[place], sequence)

    def say_lacking(self, run: Run, attempt: str) -> None:
        """Say which mirrors have not got all yet that is here of this attempt; nothing is waited for."""
        if not self._newest:
            return
        self._listen(0.0)
        with suppress(HoldfastError):  # the storage may have failed meanwhile
            here = [c.sequence for c in run.checkpoints() if str(c.attempt) == attempt]
            for place, newest in self._newest.items():
                if count := sum(sequence > newest for sequence in here):
                    lacks = f"{count} checkpoint{'s' if count > 1 else ''}"
                    console.say(f"the mirror {place} lacks {lacks} as yet")

    def wait(self, sequence: int, timeout_seconds: float | None, is_over: Callable[[], bool]) -> bool:
        """Listen until it is at all of them; False if that takes longer.

        Parameters
        ----------
        is_over : callable
            Whether nobody will tell any more.

        Raises
        ------
        UsageError
            There is no mirror.
        """
        if not self._newest:
            raise UsageError("Nothing is brought to a mirror.", do="Give mirror=.")
        deadline = math.inf if timeout_seconds is None else time.monotonic() + timeout_seconds
        while not self._are_at(sequence) and not is_over() and time.monotonic() < deadline:
            self._listen(max(min(deadline - time.monotonic(), _LISTEN_SECONDS), 0.0))
        return self._are_at(sequence)

    def _are_at(self, sequence: int) -> bool:
        return min(self._newest.values()) >= sequence
