"""From raw sizes and times to ratios, and the targets beside them."""

from __future__ import annotations

from collections.abc import Iterator
from statistics import median
from typing import Any

BASELINE = "torch.save"
RAW, COMPACTED, THINNED = "holdfast", "holdfast, compact", "holdfast, thin, compact"
RATIOS = {
    "fp32@1": 1.45,
    "fp32@10": 1.30,
    "fp32@100": 1.25,
    "mixed@10": 1.40,
    "bf16@10": 2.0,
    "adapters-0.5@10": 30.0,
    "adapters-2@10": 14.0,
}
"""Of all checkpoints, compacted, to torch.save."""
STANDALONE_RATIO = 1.20
"""Of the first fp32 checkpoint, which has none before it."""
THINNED_RATIO = 3.0
WORST_GROWTH = 1.005
"""Compacted, of what landed."""
RESTORE_RATIOS = {"newest": 2.0, "oldest": 3.0}
"""From compacted storage, of that from raw chunks; 3 where it comes from deltas."""


def figures(raw: dict[str, Any]) -> dict[str, Any]:
    """What tables and charts show of one trajectory."""
    all_bytes = raw["state_bytes"] * raw["count"]
    baseline = raw["ways"].get(BASELINE)
    return {
        "state_bytes": raw["state_bytes"],
        "tensors": raw["tensors"],
        "count": raw["count"],
        "ways": {name: _way(one, baseline, all_bytes / 1e9) for name, one in raw["ways"].items()},
    }


def _way(one: dict[str, Any], baseline: dict[str, Any] | None, all_gigabytes: float) -> dict[str, Any]:
    save, compact = (sum(one[f"{kind}_cpu_seconds"]) / all_gigabytes for kind in ("save", "compact"))
    first, last = (_ratio(one, baseline, place) for place in (0, -1))
    return {
        "stored_bytes": one["stored_bytes"][-1],
        "ratio": last,
        "first_ratio": first,
        "save_cpu_seconds_per_gb": save,
        "compact_cpu_seconds_per_gb": compact,
        "ratio_per_cpu_second": last / (save + compact) if last is not None else None,
        "durable": median(one["save_seconds"]),
        "restore_newest": median(one["restore_newest_seconds"]),
        "restore_oldest": median(one["restore_oldest_seconds"]),
    }


def _ratio(one: dict[str, Any], baseline: dict[str, Any] | None, place: int) -> float | None:
    """How many times the bytes of torch.save are those of this way."""
    return None if baseline is None else baseline["stored_bytes"][place] / one["stored_bytes"][place]


def targets(found: dict[str, Any]) -> list[dict[str, Any]]:
    """Each target that these trajectories can tell of, with what was measured."""
    return [
        {"trajectory": name, "what": what, "target": target, "measured": measured, "met": met}
        for name, one in found.items()
        for what, target, measured, met in _targets(name, one["ways"])
        if measured is not None
    ]


def _targets(name: str, ways: dict[str, Any]) -> Iterator[tuple[str, str, float | None, bool]]:
    compacted, raw = ways.get(COMPACTED), ways.get(RAW)
    if compacted and name in RATIOS:
        yield _at_least("all checkpoints, compacted, to torch.save", compacted["ratio"], RATIOS[name])
    if compacted and name == "fp32@100":
        yield _at_least("the first alone", compacted["first_ratio"], STANDALONE_RATIO)
    if THINNED in ways and name == "fp32@100":
        yield _at_least("thin and compacted, to torch.save", ways[THINNED]["ratio"], THINNED_RATIO)
    if compacted and raw:
        growth = compacted["stored_bytes"] / raw["stored_bytes"]
        yield _at_most("bytes compacted, of what landed", growth, WORST_GROWTH)
        for which, target in RESTORE_RATIOS.items():
            slower = compacted[f"restore_{which}"] / raw[f"restore_{which}"]
            yield _at_most(f"restore of the {which} compacted, of raw", slower, target)


def _at_least(what: str, measured: float | None, target: float) -> tuple[str, str, float | None, bool]:
    return what, f"at least {target:g}", measured, measured is not None and measured >= target


def _at_most(what: str, measured: float, target: float) -> tuple[str, str, float | None, bool]:
    return what, f"at most {target:g}", measured, measured <= target
