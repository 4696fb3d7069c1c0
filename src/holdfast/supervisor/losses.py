"""Whether a loss has exploded: far above what it was, and not for a moment only."""

from __future__ import annotations

from collections import deque
from statistics import median

from holdfast.node.pulse import Seen

REMEMBERED = 100
"""Looks, of those at which there was a new loss."""
ENOUGH = 10
IN_A_ROW = 3


class Losses:
    """Remembers losses as they were seen.

    Parameters
    ----------
    factor : float
        So many times the median of those remembered is an explosion; 0: nothing is.
    """

    def __init__(self, factor: float) -> None:
        self._factor = factor
        self._known: deque[float] = deque(maxlen=REMEMBERED)
        self._high = 0
        self._step: int | None = None

    def rise(self, seen: Seen) -> float | None:
        """How many times the usual the loss is, once that is an explosion."""
        if not self._factor or seen.loss is None or seen.step == self._step:
            return None
        self._step = seen.step
        usual = abs(median(self._known)) if len(self._known) >= ENOUGH else 0.0
        if not usual or abs(seen.loss) <= self._factor * usual:
            self._known.append(seen.loss)
            self._high = 0
            return None
        self._high += 1
        return abs(seen.loss) / usual if self._high >= IN_A_ROW else None
