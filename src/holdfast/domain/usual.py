"""What is usual among the newest values: a median, and sigma as the median deviation tells it.

Outliers move neither, so what is unusual does not become the measure of itself.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable, Sequence
from statistics import median

import msgspec

WINDOW = 128
ENOUGH = 24
"""With fewer values nothing is called usual."""
REFRESHED_SHARE = 4
"""What is usual is computed anew after a quarter as many values as are held: it keeps up with a trend."""
SIGMA_OF_DEVIATION = 1.4826
"""Makes the median absolute deviation of normal noise its standard deviation."""
LEAST_SHARE = 0.01
"""Sigma is no less than this share of the median: what hardly varies may still move a little."""


class Usual(msgspec.Struct, frozen=True):
    """Where values usually lie, and how far they spread."""

    center: float
    sigma: float

    def __str__(self) -> str:
        return f"{self.center:.4g} ± {self.sigma:.2g}"


def usual(values: Sequence[float]) -> Usual:
    """Sum up finite values, of which there is one at least."""
    center = median(values)
    deviation = median(abs(value - center) for value in values)
    return Usual(center, max(SIGMA_OF_DEVIATION * deviation, LEAST_SHARE * abs(center), 1e-12))


class Window:
    """The newest finite values.

    Parameters
    ----------
    values : iterable of float
        Those known already.
    enough : int
        With fewer nothing is called usual.
    """

    def __init__(self, values: Iterable[float] = (), enough: int = ENOUGH) -> None:
        self._enough = enough
        self._values: deque[float] = deque(values, maxlen=WINDOW)
        self._usual: Usual | None = None
        self._added = 0

    def add(self, value: float) -> None:
        self._values.append(value)
        self._added += 1
        if self._added * REFRESHED_SHARE >= len(self._values):
            self._usual, self._added = None, 0

    def newest(self, count: int) -> list[float]:
        return list(self._values)[-count:]

    @property
    def usual(self) -> Usual | None:
        """What is usual, a few values behind; None as long as too few are known."""
        if self._usual is None and len(self._values) >= self._enough:
            self._usual = usual(self._values)
        return self._usual
