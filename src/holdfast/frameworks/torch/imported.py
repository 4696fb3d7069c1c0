"""State dicts from PyTorch's own files, completed from the live object that awaits them.

A file says neither what kind of object it was nor what its adapter keeps besides; the live
object knows. What results is the adapter's own form, so that the same care applies.
"""

from __future__ import annotations

from typing import Any

import torch
from torch.optim import Optimizer
from torch.optim.lr_scheduler import LRScheduler

from holdfast.domain.tensors import TensorRef
from holdfast.domain.tree import Component
from holdfast.frameworks.base import LoadWalk
from holdfast.frameworks.torch import modules, schedulers
from holdfast.frameworks.torch.modules import ModuleAdapter
from holdfast.frameworks.torch.names import join, submodules
from holdfast.frameworks.torch.optimizers import OptimizerAdapter
from holdfast.frameworks.torch.scaling import ScalerAdapter
from holdfast.frameworks.torch.schedulers import SchedulerAdapter

KIND = "torch.imported"
_WRAPPERS = ("module.", "_orig_mod.")
_EXTRA = "_extra_state"
_LIKE_PARAMETER = (
    "exp_avg",
    "exp_avg_sq",
    "max_exp_avg_sq",
    "momentum_buffer",
    "square_avg",
    "exp_inf",
    "sum",
)
_BOUND = ("lr_lambdas", "_schedulers", "_scale_fn_custom", "_scale_fn_ref")


def plan_module(value: torch.nn.Module, saved: dict[str, Any], path: str, walk: LoadWalk) -> None:
    """Parameters and buffers by name; ties, modes and ``requires_grad`` stay as they are."""
    found = list(submodules(value))
    slots = modules._slots(found)
    names = _unwrapped(saved, slots.keys())
    tensors = {k: v for k, v in names.items() if k.rpartition(".")[2] != _EXTRA}
    ties = modules._tied(slots)
    for name, leader in ties.items():
        if name in tensors:  # the file holds both, or this one only
            tensors.setdefault(leader, tensors.pop(name))
            tensors.pop(name, None)
    live_extra = {join(name, _EXTRA): name for name, _ in modules._with_extra_state(found)}
    for key in sorted(k for k in names if k.rpartition(".")[2] == _EXTRA and k not in live_extra):
        walk.unexpected(f"{path}/{key}")
    complete = {
        "tensors": tensors,
        "tied": ties,
        "transient": [],
        "requires_grad": [name for name, slot in slots.items() if modules._requires_grad(slot.tensor)],
        "training": {},
        "extra": {live_extra[k]: v for k, v in names.items() if k in live_extra},
    }
    ModuleAdapter().plan(value, complete, path, walk)


def _unwrapped(saved: dict[str, Any], live: Any) -> dict[str, Any]:
    """Without the prefix that DataParallel and compile put before every name."""
    for prefix in _WRAPPERS * 2:
        if saved and all(name.startswith(prefix) for name in saved) and not saved.keys() & live:
            saved = {name.removeprefix(prefix): item for name, item in saved.items()}
    return saved


def plan_optimizer(value: Optimizer, saved: dict[str, Any], path: str, walk: LoadWalk) -> None:
    """Groups and state by the order of parameters, as PyTorch keeps them; no casts."""
    state = dict(saved["state"])
    groups = []
    for index, group in enumerate(saved["param_groups"]):
        live = value.param_groups[index]["params"] if index < len(value.param_groups) else []
        groups.append(_group(group, live, state, f"{path}/groups/{index}", walk))
    complete = {
        "type": type(value).__name__,
        "stepped": bool(saved["state"]),
        "groups": groups,
        "shared": {k: v for k, v in state.items() if not isinstance(k, int)},
    }
    for key in sorted(k for k in state if isinstance(k, int)):
        walk.unexpected(f"{path}/state/{key}")
    OptimizerAdapter().plan(value, complete, path, walk)


def _group(
    group: dict[str, Any], live: list[torch.Tensor], state: dict[Any, Any], path: str, walk: LoadWalk
) -> Any:
    described, states = [], []
    names = group.get("param_names") or [None] * len(group["params"])
    for position, (name, number) in enumerate(zip(names, group["params"], strict=True)):
        shape = list(live[position].shape) if position < len(live) else []
        entry = state.pop(number, None)
        described.append({"name": name, "shape": shape, "device": "cpu"})
        states.append(entry)
        for key in _LIKE_PARAMETER:
            ref = (entry or {}).get(key)
            if isinstance(ref, TensorRef) and list(walk.spec(ref).shape) != shape:
                walk.mismatched(f"{path}/{position}/{key}", list(walk.spec(ref).shape), shape)
    values = {k: v for k, v in group.items() if k != "params"}
    return {"parameters": described, "values": values, "state": states}


def plan_scheduler(value: LRScheduler, saved: dict[str, Any], path: str, walk: LoadWalk) -> None:
    """Attributes by name, inner schedulers by place; functions are the script's."""
    for key in ("last_epoch", "_last_lr"):
        if key in vars(value) and key not in saved:
            walk.missing(f"{path}/{key}")
    inner = {f"_schedulers[{i}]": Component(KIND, s) for i, s in enumerate(saved.get("_schedulers") or [])}
    objects = {name for name, _ in schedulers._callables(value)}
    named = {f"lr_lambdas[{i}]": s for i, s in enumerate(saved.get("lr_lambdas") or [])}
    # a partial function has attributes, too, in PyTorch's eyes: none
    called = {name: s for name, s in named.items() if s or (s is not None and name in objects)}
    if saved.get("_scale_fn_custom") is not None:
        called["_scale_fn_custom"] = saved["_scale_fn_custom"]
    complete = {
        "type": type(value).__name__,
        "values": {k: v for k, v in saved.items() if k not in _BOUND},
        "callables": called,
        "nested": inner,
    }
    SchedulerAdapter().plan(value, complete, path, walk)


def plan_scaler(value: torch.amp.GradScaler, saved: dict[str, Any], path: str, walk: LoadWalk) -> None:
    ScalerAdapter().plan(value, saved, path, walk)


IMPORTERS = {
    "torch.module": plan_module,
    "torch.optimizer": plan_optimizer,
    "torch.scheduler": plan_scheduler,
    "torch.scaler": plan_scaler,
}
