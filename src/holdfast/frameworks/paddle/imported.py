"""State dicts from Paddle's own files, completed from the live object that awaits them.

Paddle's names of optimizer values come from a counter; where the file beside it tells which
parameter had which name, values go by the structured name instead.
"""

from __future__ import annotations

import re
from typing import Any

import numpy as np
from paddle.optimizer.lr import LRScheduler

from holdfast.frameworks.base import LoadWalk
from holdfast.frameworks.paddle import layers, tensors
from holdfast.frameworks.paddle.layers import LayerAdapter
from holdfast.frameworks.paddle.names import sublayers
from holdfast.frameworks.paddle.optimizers import _plan_parameter
from holdfast.frameworks.paddle.parameters import Accumulators, Parameter, parameters

NAMES = "StructuredToParameterName@@"
_SCHEDULER, _MASTERS = "LR_Scheduler", "master_weights"
_INNER = "LinearWarmup_LR"
_LIKE_PARAMETER = ("moment", "moment1", "moment2", "moment2_max", "velocity", "inf_norm", "mean_square")


def plan_layer(value: Any, saved: dict[str, Any], path: str, walk: LoadWalk) -> None:
    """Parameters and buffers by name; ties, modes and ``stop_gradient`` stay as they are."""
    saved = {name: item for name, item in saved.items() if name != NAMES}
    ties = layers._tied(layers._slots(list(sublayers(value))))
    for name, leader in ties.items():
        if name in saved:  # the file holds both, or this one only
            saved.setdefault(leader, saved.pop(name))
            saved.pop(name, None)
    complete = {"tensors": saved, "tied": ties, "transient": [], "stop_gradient": {}, "training": {}}
    LayerAdapter().plan(value, complete, path, walk)


def plan_optimizer(value: Any, saved: dict[str, Any], path: str, walk: LoadWalk) -> None:
    """Accumulators and master weights by parameter; hyperparameters stay as they are."""
    live = [p for group in parameters(value, walk.state) for p in group]
    owners = _owners(live, saved.get(NAMES) or {})
    masters = dict(saved.get(_MASTERS) or {})
    found: dict[str, dict[str, Any]] = {owner: {} for owner in owners}
    for key, item in saved.items():
        if key not in (NAMES, _SCHEDULER, _MASTERS):
            owner, kind = _split(key, owners, value._name)
            if owner is None:
                walk.unexpected(f"{path}/{key}")
            else:
                found[owner][kind] = item
    kept = Accumulators(value)
    for owner, parameter in owners.items():
        _plan_one(kept, parameter, found[owner], masters.pop(owner, None), path, walk)
        if any(found.values()) and not found[owner] and not parameter.tensor.stop_gradient:
            walk.missing(f"{path}/{parameter.label}")
    for name in sorted(masters):
        walk.unexpected(f"{path}/{_MASTERS}/{name}")
    walk.then(kept.settle)
    if isinstance(value._learning_rate, LRScheduler):
        plan_scheduler(value._learning_rate, saved.get(_SCHEDULER) or {}, f"{path}/learning_rate", walk)


def _owners(live: list[Parameter], table: dict[str, str]) -> dict[str, Parameter]:
    """Live parameters by the names that the file knows them by."""
    return {table.get(p.label.partition("/")[2], p.tensor.name): p for p in live}


def _split(key: str, owners: dict[str, Parameter], prefix: str | None) -> tuple[str | None, str]:
    """``linear_0.w_0_moment1_0`` as the parameter ``linear_0.w_0`` and the kind ``moment1``."""
    kind = re.compile(rf"(?:_fp32_master_\d+)?_{re.escape(f'{prefix}_' if prefix else '')}([A-Za-z]\w*?)_\d+")
    end = key.rfind("_")
    while end > 0:
        if key[:end] in owners and (match := kind.fullmatch(key[end:])):
            return key[:end], match[1]
        end = key.rfind("_", 0, end)
    return None, ""


def _plan_one(
    kept: Accumulators, parameter: Parameter, found: dict[str, Any], master: Any, path: str, walk: LoadWalk
) -> None:
    shape = tuple(parameter.tensor.shape)
    for kind in found.keys() & set(_LIKE_PARAMETER):
        if (saved := walk.spec(found[kind]).shape) != shape:
            walk.mismatched(f"{path}/{parameter.label}/{kind}", list(saved), list(shape))
    complete = {
        "spec": str(tensors.spec_of(parameter.tensor)),
        "created": bool(found),
        "accumulators": found,
        "master": master,
    }
    _plan_parameter(kept, parameter, complete, path, walk)


def plan_scheduler(value: Any, saved: dict[str, Any], path: str, walk: LoadWalk) -> None:
    """What Paddle's ``state_dict`` holds; the schedule itself is the script's."""
    had_keys = hasattr(value, "keys")
    wanted = list(value.state_dict())
    if not had_keys:
        del value.keys
    new = {}
    for key in wanted:
        if key not in saved:
            walk.missing(f"{path}/{key}")
        elif key == _INNER:
            plan_scheduler(value.learning_rate, saved[key], f"{path}/learning_rate", walk)
        else:
            new[key] = walk.value(saved[key], None, f"{path}/{key}")
    # as set_state_dict does, which warns of its own inner schedulers
    walk.then(lambda: vars(value).update(new))


def plan_scaler(value: Any, saved: dict[str, Any], path: str, walk: LoadWalk) -> None:
    if bool(saved) != value.is_enable():
        walk.mismatched(
            path, "enabled" if saved else "disabled", "enabled" if value.is_enable() else "disabled"
        )
    elif saved:
        scale = walk.value(saved["scale"], None, f"{path}/scale")
        walk.then(lambda: value.load_state_dict({**saved, "scale": np.array(scale).reshape(-1)}))


IMPORTERS = {
    "paddle.layer": plan_layer,
    "paddle.optimizer": plan_optimizer,
    "paddle.scheduler": plan_scheduler,
    "paddle.scaler": plan_scaler,
}
