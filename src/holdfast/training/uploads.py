"""Which checkpoints are at the mirrors."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterable

from holdfast.domain.mirrors import Mirror
from holdfast.errors import UsageError

_LISTEN_SECONDS = 0.5


class Uploads:
    """What is told of each mirror."""

    def __init__(self, mirrors: Iterable[Mirror]) -> None:
        self._newest = {mirror.place: 0 for mirror in mirrors}

    def note(self, place: str, sequence: int) -> None:
        """Checkpoints up to this one, or newer ones in their place, are there."""
        self._newest[place] = max(self._newest[place], sequence)

    def wait(
        self,
        sequence: int,
        timeout_seconds: float | None,
        listen: Callable[[float], None],
        is_over: Callable[[], bool],
    ) -> bool:
        """Listen until it is at all of them; False if that takes longer.

        Parameters
        ----------
        listen : callable
            Hears what is told within so many seconds.
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
            listen(max(min(deadline - time.monotonic(), _LISTEN_SECONDS), 0.0))
        return self._are_at(sequence)

    def _are_at(self, sequence: int) -> bool:
        return min(self._newest.values()) >= sequence
