"""Whether a resumed training joins what it was: first losses and a probe, against those recorded."""

from __future__ import annotations

import math
import struct
from collections.abc import Sequence
from itertools import combinations
from statistics import median

from holdfast.domain.health import Finding, upper
from holdfast.domain.usual import Usual, usual

TAIL = 32
"""So many of the newest losses a checkpoint records."""
JOIN_STEPS = 10
"""A rise within so many steps of a restore is laid to the restore."""
TOLERANCE = 1e-3
"""Relative, for a probe on other software or another device."""


def tail_of(saved: object) -> list[float]:
    """Losses as a checkpoint records them; none, if it records none that can be."""
    values = saved if isinstance(saved, list) else []
    return [value for value in values[-TAIL:] if isinstance(value, float) and math.isfinite(value)]


def probe_of(saved: object) -> float | None:
    """A probe as a checkpoint records it."""
    return saved if isinstance(saved, float) else None


class Trend:
    """Where recorded losses lead: a line through them that outliers do not move (Theil's and Sen's)."""

    def __init__(self, losses: Sequence[float]) -> None:
        last = len(losses) - 1
        self._usual, self._count = usual(losses), len(losses)
        self._slope = median((losses[j] - losses[i]) / (j - i) for i, j in combinations(range(last + 1), 2))
        self._end = usual([loss + self._slope * (last - i) for i, loss in enumerate(losses)])

    def expected(self, ahead: int) -> Usual:
        """What the loss may be so many further on: what was usual, or on the line if that is higher.

        A line is the less certain the further it is drawn. One that falls is not counted on: a loss that
        has fallen may stay where it is.
        """
        n = self._count
        spread = math.sqrt(1 + 1 / n + 12 * (n / 2 + ahead) ** 2 / n**3)
        line = Usual(self._end.center + self._slope * ahead, self._end.sigma * spread)
        return max(self._usual, line, key=upper)


def seam(rise: Finding) -> Finding:
    """What a rise right after a restore is."""
    return Finding("seam", f"the resumed training does not join what it was: {rise.detail}")


def compare_probe(recorded: float, again: float, *, exact: bool) -> Finding | None:
    """Compare a probe with what it was when the checkpoint was made: bit for bit, or nearly."""
    same_bits = struct.pack("d", recorded) == struct.pack("d", again)
    if same_bits or (not exact and math.isclose(recorded, again, rel_tol=TOLERANCE)):
        return None
    how = "" if exact else f", more than {TOLERANCE:.1%} apart"
    return Finding("probe", f"the probe gives {again!r}, and gave {recorded!r} when this was saved{how}")
