"""From raw times to figures: medians, and ratios to the limit of the same repetition."""

from __future__ import annotations

from statistics import median
from typing import Any

TARGETS = {
    "save": 1.4,
    "load": 1.4,
    "extra_bytes": 256 << 20,
    "import_seconds": 0.150,
    "list": 2.0,
    "newest_recovery_point": 0.5,
}


def figures(contest: dict[str, Any]) -> dict[str, Any]:
    """What the table and the charts show of one framework."""
    limits = contest["limit"]
    return {
        "state_bytes": contest["state_bytes"],
        "tensors": contest["tensors"],
        "limit": {kind: median(one[kind] for one in limits) for kind in ("write", "read", "memcpy")},
        "contenders": {name: _contender(times, limits) for name, times in contest["times"].items()},
    }


def _contender(times: list[dict[str, float]], limits: list[dict[str, float]]) -> dict[str, float]:
    pairs = list(zip(times, limits, strict=True))
    return {
        "returned": median(t["returned"] for t in times),
        "durable": median(t["durable"] for t in times),
        "load": median(t["load"] for t in times),
        "durable_ratio": median(t["durable"] / limit["write"] for t, limit in pairs),
        "durable_ratio_best": min(t["durable"] / limit["write"] for t, limit in pairs),
        "durable_ratio_worst": max(t["durable"] / limit["write"] for t, limit in pairs),
        "load_ratio": median(t["load"] / limit["read"] for t, limit in pairs),
        "load_ratio_best": min(t["load"] / limit["read"] for t, limit in pairs),
        "load_ratio_worst": max(t["load"] / limit["read"] for t, limit in pairs),
    }
