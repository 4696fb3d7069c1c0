"""Learning-rate schedulers with the hyperparameters that Paddle's ``state_dict`` leaves out."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
import paddle
from paddle.optimizer.lr import LRScheduler

from holdfast.frameworks.base import CaptureWalk, LoadWalk
from holdfast.frameworks.paddle.settings import is_plain

_SKIPPED = frozenset({"keys", "_var_name"})
_MOVING = frozenset({"last_epoch", "last_lr", "T_cur", "T_i", "best", "cooldown_counter", "num_bad_epochs"})


class SchedulerAdapter:
    """Every attribute is kept, nested schedulers as their own; code (``lr_lambda``) is the script's."""

    kind = "paddle.scheduler"

    def capture(self, value: Any, path: str, walk: CaptureWalk) -> dict[str, Any]:
        return {
            "class": type(value).__name__,
            "attributes": {
                name: walk.value(item, f"{path}/{name}") for name, item in _attributes(value).items()
            },
        }

    def plan(self, value: Any, saved: Any, path: str, walk: LoadWalk) -> None:
        if saved["class"] != type(value).__name__:
            walk.mismatched(path, saved["class"], type(value).__name__)
            return
        live = _attributes(value)
        for name in sorted(live.keys() - saved["attributes"].keys()):
            walk.missing(f"{path}/{name}")
        for name, old in saved["attributes"].items():
            item = live.get(name)
            if name not in vars(value):
                walk.unexpected(f"{path}/{name}")
            elif isinstance(item, LRScheduler):
                walk.value(old, item, f"{path}/{name}")
            else:
                _plan_attribute(value, name, walk.value(old, None, f"{path}/{name}"), walk)

    def given(self, value: Any) -> dict[str, Any]:
        own = {n: v for n, v in _attributes(value).items() if n not in _moving(value) and is_plain(v)}
        for name, inner in _nested(value):
            own.update({f"{name}.{n}": v for n, v in self.given(inner).items()})
        return own

    def apply_given(self, value: Any, changes: dict[str, Any]) -> None:
        if changes.get("base_lr") is not None and value.base_lr:
            # the schedule so far stays: only what it started from changes
            value.last_lr = value.last_lr * (changes["base_lr"] / value.base_lr)
        for name in _attributes(value):
            if name in changes and name not in _moving(value):
                setattr(value, name, changes[name])
        for name, inner in _nested(value):
            mine = {n.removeprefix(f"{name}."): v for n, v in changes.items() if n.startswith(f"{name}.")}
            self.apply_given(inner, mine)


def _attributes(scheduler: Any) -> dict[str, Any]:
    return {n: v for n, v in vars(scheduler).items() if (n not in _SKIPPED and not callable(v)) or _keeps(v)}


def _keeps(item: object) -> bool:
    return isinstance(item, LRScheduler | paddle.Tensor | np.ndarray)


def _moving(scheduler: Any) -> set[str]:
    """What stepping changes: Paddle's own list, and what that forgets."""
    keys = getattr(scheduler, "keys", None)
    scheduler.state_keys()
    moving = {*_MOVING, *scheduler.keys}
    if keys is None:
        del scheduler.keys
    return moving


def _nested(scheduler: Any) -> Iterator[tuple[str, Any]]:
    return ((n, v) for n, v in vars(scheduler).items() if isinstance(v, LRScheduler))


def _plan_attribute(scheduler: Any, name: str, new: Any, walk: LoadWalk) -> None:
    walk.then(lambda: setattr(scheduler, name, new))
