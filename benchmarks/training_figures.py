"""From the seconds of every step to stalls, durability and throughput."""

from __future__ import annotations

from math import ceil
from statistics import median
from typing import Any

BASELINE = "no saving"
EVERY = 10
RARELY = 100
SETTLED_STEPS = 5
"""So many steps after a save a step counts as one without saving."""
RESTORE_TARGETS = {"memcpy": 2.5, "read": 1.3}
"""A verified restore, of a copy in memory and of a bare read of as much."""
KILL_TARGET_SECONDS = 1.0
RECOVERY_TARGET_SECONDS = 1.5
"""From SIGKILL to the first new step, beside importing and building the model."""

Turn = dict[str, Any]


def training_figures(raw: dict[str, Any]) -> dict[str, Any]:
    """What the table and the chart show of one size."""
    limit = {kind: median(one[kind] for one in raw["limit"]) for kind in ("write", "memcpy")}
    baseline = raw["turns"][BASELINE]
    return {
        "state_bytes": raw["state_bytes"],
        "tensors": raw["tensors"],
        "step": median(quiet_seconds(turn["often"]) for turn in baseline),
        "limit": limit,
        "ways": {
            name: _way(turns, baseline, limit["write"])
            for name, turns in raw["turns"].items()
            if turns and name != BASELINE
        },
        "failed": raw["failed"],
    }


def _way(turns: list[Turn], baseline: list[Turn], write_seconds: float) -> dict[str, Any]:
    often = [turn["often"] for turn in turns]
    durable = [seconds for part in often for seconds in part["durable"]]
    lost = [seconds for part in often for seconds in stalls(part)]
    held = [seconds for part in often for seconds in holds(part)]
    return {
        "saves": len(lost),
        "held": median(held),
        "held_p99": percentile(held, 0.99),
        "stall": median(lost),
        "stall_p99": percentile(lost, 0.99),
        "durable": median(durable),
        "durable_ratio": median(durable) / write_seconds,
        "whole": turns[0]["first"].get("whole"),
        "first_stall": max(stalls(turns[0]["first"], quiet_seconds(often[0]))),
        "often": median(map(_kept, often, [turn["often"] for turn in baseline])),
        "often_computed": median(_kept_if(part, EVERY) for part in often),
        "rarely": _rarely(turns, baseline),
        "rarely_computed": median(_kept_if(part, RARELY) for part in often),
    }


def quiet_seconds(part: Turn) -> float:
    """A step's seconds where no save is near."""
    busy = {save + after for save in part["saves"] for after in range(SETTLED_STEPS)}
    return median(seconds for step, seconds in enumerate(part["steps"]) if step not in busy)


def stalls(part: Turn, quiet: float | None = None) -> list[float]:
    """What each save cost: by how much its step and the one after it were longer than two without one.

    The step after it waits for what is still being copied.
    """
    usual = quiet_seconds(part) if quiet is None else quiet
    steps = part["steps"]
    return [steps[save] + steps[save + 1] - 2 * usual for save in part["saves"]]


def holds(part: Turn) -> list[float]:
    """For how long each save made training wait, in its call and before the next optimizer step."""
    return [part["inside"][save] + part["inside"][save + 1] for save in part["saves"]]


def percentile(values: list[float], share: float) -> float:
    """The nearest rank: of fewer than a hundred values, the 99th percentile is the largest."""
    return sorted(values)[ceil(share * len(values)) - 1]


def _kept(part: Turn, baseline: Turn) -> float:
    """Throughput, of that without saving."""
    return (sum(baseline["steps"]) / len(baseline["steps"])) / (sum(part["steps"]) / len(part["steps"]))


def _kept_if(part: Turn, every: int) -> float:
    """Throughput with a save every so many steps, if each costs what those here cost in all.

    It rests on the turn's own steps without saving, so a machine that is slow for a while does no harm.
    """
    usual = quiet_seconds(part)
    cost = (sum(part["steps"]) - usual * len(part["steps"])) / len(part["saves"])
    return every * usual / (every * usual + cost)


def _rarely(turns: list[Turn], baseline: list[Turn]) -> float | None:
    measured = [turn["rarely"] for turn in turns if "rarely" in turn]
    beside = [turn["rarely"] for turn in baseline if "rarely" in turn]
    return median(map(_kept, measured, beside)) if measured and beside else None


def relaunch_figures(raw: dict[str, Any]) -> dict[str, dict[str, Any]]:
    """Medians of each kind; a restore beside what its source gives at best in the same repetition."""
    return {kind: _relaunched(kind, found) for kind, found in raw["relaunches"].items() if found}


def _relaunched(kind: str, found: list[dict[str, Any]]) -> dict[str, Any]:
    best = "read" if kind == "disk" else "memcpy"
    numbers = [name for name, value in found[0].items() if isinstance(value, float)]
    return {name: median(one[name] for one in found) for name in numbers} | {
        "limit": median(one[best] for one in found),
        "restore_ratio": median(one["restore"] / one[best] for one in found),
        "entered_ratio": median(one["entered"] / one[best] for one in found),
        "target_ratio": RESTORE_TARGETS[best],
        "places": sorted({one["place"] for one in found}),
        "lost_steps": max(one["killed_after"] + 1 - one["first_step"] for one in found),
    }


def recovery_figures(raw: dict[str, Any]) -> dict[str, dict[str, float]]:
    """Medians of each fault, and the slowest way to a new step."""
    return {
        fault: {name: median(one[name] for one in found) for name in found[0]}
        | {"slowest": max(one["to_step"] for one in found)}
        for fault, found in raw["recoveries"].items()
    }
