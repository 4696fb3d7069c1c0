"""Lightning's ``.ckpt``: what its keys mean."""

from __future__ import annotations

import math
from typing import Any

_MARK = "pytorch-lightning_version"
_REST = "lightning"
_LARGEST_EPOCH = 10**9


def is_one(values: object) -> bool:
    return isinstance(values, dict) and _MARK in values and isinstance(values.get("state_dict"), dict)


def entries(values: dict[str, Any], model: str, optimizer: str) -> dict[str, Any]:
    """Model, optimizer, scheduler under the names that a training state has; the rest as ``lightning``."""
    found: dict[str, Any] = {model: values["state_dict"]}
    for key, entry in (("optimizer_states", optimizer), ("lr_schedulers", "scheduler")):
        several = values.get(key)
        if isinstance(several, list) and several:
            found[entry] = several[0] if len(several) == 1 else several
    taken = ("state_dict", "optimizer_states", "lr_schedulers")
    return found | {_REST: {key: item for key, item in values.items() if key not in taken}}


def epoch(values: dict[str, Any]) -> int:
    number = values.get("epoch")
    return number if type(number) is int and 0 <= number <= _LARGEST_EPOCH else 0


def metrics(values: dict[str, Any]) -> dict[str, float]:
    """What its callbacks watched, as it was when the file was written."""
    callbacks = values.get("callbacks")
    found: dict[str, float] = {}
    for state in callbacks.values() if isinstance(callbacks, dict) else ():
        name, score = (
            (state.get("monitor"), state.get("current_score")) if isinstance(state, dict) else (None, None)
        )
        if isinstance(name, str) and (number := _number(score)) is not None:
            found[name] = number
    return found


def _number(value: Any) -> float | None:
    """A number, or a tensor of one."""
    if hasattr(value, "numel"):
        value = value.item() if value.numel() == 1 else None
    usable = isinstance(value, int | float) and not isinstance(value, bool)
    return float(value) if usable and math.isfinite(value) else None
