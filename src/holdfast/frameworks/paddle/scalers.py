"""Gradient scalers, enabled or not, with what Paddle's ``state_dict`` leaves out."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping
from typing import Any

import paddle
from paddle.amp.grad_scaler import OptimizerState, _refresh_optimizer_state

from holdfast.errors import UnsupportedError
from holdfast.frameworks.base import CaptureWalk, LoadWalk
from holdfast.frameworks.paddle.names import leaves
from holdfast.frameworks.paddle.parameters import is_optimizer
from holdfast.frameworks.paddle.settings import is_plain

_GIVEN = (
    "_init_loss_scaling",
    "_incr_ratio",
    "_decr_ratio",
    "_incr_every_n_steps",
    "_decr_every_n_nan_or_inf",
    "_use_dynamic_loss_scaling",
)


class ScalerAdapter:
    """Every attribute is kept; tensors are made anew, as Paddle lets several flags share one."""

    kind = "paddle.scaler"

    def capture(self, value: Any, path: str, walk: CaptureWalk) -> dict[str, Any]:
        own = dict(vars(value))
        own.pop("_optimizer_states", None)  # by ids of this process: "optimizers" has them by path
        kept = {n: v for n, v in own.items() if is_plain(v) or isinstance(v, paddle.Tensor)}
        return {
            "attributes": {name: walk.value(item, f"{path}/{name}") for name, item in kept.items()},
            "optimizers": _capture_optimizers(value, path, walk),
        }

    def plan(self, value: Any, saved: Any, path: str, walk: LoadWalk) -> None:
        old = saved["attributes"]
        if _was_enabled(old) != _was_enabled(vars(value)):
            state = {True: "enabled", False: "disabled"}
            walk.mismatched(path, state[_was_enabled(old)], state[_was_enabled(vars(value))])
            return
        for name in old.keys() - vars(value).keys():
            walk.unexpected(f"{path}/{name}")
        new = {
            name: walk.value(item, None, f"{path}/{name}")
            for name, item in old.items()
            if name in vars(value)
        }
        owners = dict(leaves(walk.state))
        midway = {}
        for where, state in saved["optimizers"].items():
            if is_optimizer(owners.get(where)):
                midway[id(owners[where])] = state
            else:
                walk.unexpected(f"{path}/optimizers/{where}")
        walk.then(lambda: _put(value, new, midway))

    def given(self, value: Any) -> dict[str, Any]:
        own = {name.lstrip("_"): getattr(value, name) for name in _GIVEN if hasattr(value, name)}
        return {"enable": _was_enabled(vars(value)), **own}

    def apply_given(self, value: Any, changes: dict[str, Any]) -> None:
        for name in _GIVEN:
            if name.lstrip("_") in changes:
                setattr(value, name, changes[name.lstrip("_")])


def _was_enabled(attributes: Mapping[str, Any]) -> bool:
    """Whether the script built it enabled; Paddle disables it by itself outside fp16."""
    return "_incr_ratio" in attributes


def _capture_optimizers(scaler: Any, path: str, walk: CaptureWalk) -> dict[str, int]:
    """How far each optimizer is between ``unscale_`` and ``update``, by its path in the state."""
    paths = {id(leaf): where for where, leaf in leaves(walk.state)}
    result = {}
    for key, entry in getattr(scaler, "_optimizer_states", {}).items():
        if entry["state"] is OptimizerState.INIT:
            continue
        if key not in paths:
            raise UnsupportedError(
                f"{path} is between unscale_() and update() of an optimizer that is not in the state.",
                do="Add the optimizer to the state, or call update() before the step ends.",
            )
        result[paths[key]] = int(entry["state"].value)
    return result


def _put(scaler: Any, attributes: dict[str, Any], optimizers: dict[int, int]) -> None:
    for name, item in attributes.items():
        setattr(scaler, name, item)
    if hasattr(scaler, "_optimizer_states"):
        scaler._optimizer_states = defaultdict(_refresh_optimizer_state)
        for key, state in optimizers.items():
            scaler._optimizer_states[key]["state"] = OptimizerState(state)
