"""Where learning stands: what makes the state of this moment worth more than that of the next."""

from __future__ import annotations

import math
import re
from collections.abc import Sequence

from holdfast.domain.keep_rules import Mode, is_improvement

JUMP = 2.0
"""A schedule that moves smoothly changes a rate by less from step to step."""
_WAYS: dict[str, Mode] = {
    "loss": "min",
    "error": "min",
    "perplexity": "min",
    "ppl": "min",
    "acc": "max",
    "accuracy": "max",
    "f1": "max",
    "auc": "max",
}


def way_of(metric: str) -> Mode | None:
    """Which way a metric improves, as its name tells; None if it does not."""
    words = re.split(r"[^a-z0-9]+", metric.lower())
    return next((_WAYS[word] for word in words if word in _WAYS), None)


class Records:
    """The best value of each metric whose name tells which way is better."""

    def __init__(self) -> None:
        self._best: dict[str, float] = {}

    def is_broken(self, metric: str, value: float) -> bool:
        """Whether the value is better than any before; the first is only noted."""
        way = way_of(metric)
        if way is None or not math.isfinite(value):
            return False
        known = self._best.get(metric)
        if known is not None and not is_improvement(value, [known], way):
            return False
        self._best[metric] = value
        return known is not None


def is_jump(before: Sequence[float], now: Sequence[float]) -> bool:
    """Whether a learning rate is another all at once: a milestone, or a warm restart."""
    pairs = zip(before, now, strict=False)
    return any(min(pair) > 0 and max(pair) >= JUMP * min(pair) for pair in pairs)
