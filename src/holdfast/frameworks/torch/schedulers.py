"""LR schedulers: all of their attributes, nested schedulers and callable objects included.

A scheduler and its optimizer are restored independently and write nothing into each other, so
their order in the state does not matter.
"""

from __future__ import annotations

import functools
import types
import weakref
from collections.abc import Callable, Iterator
from typing import Any

import torch
from torch.optim import Optimizer
from torch.optim.lr_scheduler import LRScheduler

from holdfast.frameworks.base import CaptureWalk, LoadWalk
from holdfast.frameworks.torch.values import Capturing, Renewing, assign_like, plain_value

_CODE = (
    types.FunctionType,
    types.BuiltinFunctionType,
    types.MethodType,
    functools.partial,
    weakref.ref,
    type,
)
_PROGRESS = {
    "last_epoch",
    "_step_count",
    "_last_lr",
    "_is_initial",
    "_get_lr_called_within_step",
    "T_cur",
    "T_i",
    "best",
    "num_bad_epochs",
    "cooldown_counter",
    "mode_worse",
}


class SchedulerAdapter:
    """Functions belong to the script and are not kept; callable objects keep their attributes."""

    kind = "torch.scheduler"

    def capture(self, value: LRScheduler, path: str, walk: CaptureWalk) -> dict[str, Any]:
        capturing = Capturing(walk)
        return {
            "type": type(value).__name__,
            "values": {k: capturing.value(v, f"{path}/{k}") for k, v in _values(value).items()},
            "callables": {
                name: capturing.value(dict(vars(called)), f"{path}/{name}")
                for name, called in _callables(value)
            },
            "nested": {name: walk.value(inner, f"{path}/{name}") for name, inner in _nested(value)},
        }

    def plan(self, value: LRScheduler, saved: Any, path: str, walk: LoadWalk) -> None:
        if saved["type"] != type(value).__name__:
            walk.mismatched(path, saved["type"], type(value).__name__)
            return
        # lists are shared between schedulers in ways that change, so they are replaced, not refilled
        renewing = Renewing(walk, reuse=False)
        live = vars(value)
        new = {}
        for key, old in saved["values"].items():
            if _holds_objects(live.get(key)):
                walk.mismatched(f"{path}/{key}", type(old).__name__, "code")
            else:
                new[key] = renewing.value(old, live.get(key), f"{path}/{key}")
        walk.then(lambda: _finish(value, new))
        called = dict(_callables(value))
        _compare(saved["callables"], called, path, walk)
        for name in saved["callables"].keys() & called.keys():
            attributes = vars(called[name])
            fresh = renewing.value(saved["callables"][name], attributes, f"{path}/{name}")
            walk.then(_updater(attributes, fresh))
        nested = dict(_nested(value))
        _compare(saved["nested"], nested, path, walk)
        for name in saved["nested"].keys() & nested.keys():
            walk.value(saved["nested"][name], nested[name], f"{path}/{name}")

    def given(self, value: LRScheduler) -> dict[str, Any]:
        result = {k: plain_value(v) for k, v in _values(value).items() if k not in _PROGRESS}
        for name, inner in _nested(value):
            result.update({f"{name}.{k}": v for k, v in self.given(inner).items()})
        return {k: v for k, v in result.items() if v is not NotImplemented}

    def apply_given(self, value: LRScheduler, changes: dict[str, Any]) -> None:
        for key in _values(value).keys() & changes.keys():
            assign_like(vars(value), key, changes[key])
        _settle(value)
        for name, inner in _nested(value):
            mine = {k.removeprefix(f"{name}."): v for k, v in changes.items() if k.startswith(f"{name}.")}
            if mine:
                self.apply_given(inner, mine)


def _values(scheduler: LRScheduler) -> dict[str, Any]:
    """Attributes that are neither the optimizer, code, nor nested schedulers."""
    return {k: v for k, v in vars(scheduler).items() if not _holds_objects(v)}


def _holds_objects(value: object) -> bool:
    if isinstance(value, list | tuple):
        return any(_holds_objects(item) for item in value)
    if isinstance(value, torch.Tensor):
        return False
    return isinstance(value, Optimizer | LRScheduler) or callable(value)


def _objects(scheduler: LRScheduler) -> Iterator[tuple[str, Any]]:
    for key, value in vars(scheduler).items():
        if isinstance(value, list | tuple) and _holds_objects(value):
            for index, item in enumerate(value):
                yield f"{key}[{index}]", item
        elif _holds_objects(value):
            yield key, value


def _nested(scheduler: LRScheduler) -> Iterator[tuple[str, LRScheduler]]:
    for name, value in _objects(scheduler):
        if isinstance(value, LRScheduler):
            yield name, value


def _callables(scheduler: LRScheduler) -> Iterator[tuple[str, Any]]:
    for name, value in _objects(scheduler):
        is_code = isinstance(value, (*_CODE, Optimizer, LRScheduler, torch.nn.Module))
        if not is_code and callable(value) and hasattr(value, "__dict__"):
            yield name, value


def _compare(saved: dict[str, Any], live: dict[str, Any], path: str, walk: LoadWalk) -> None:
    for name in sorted(live.keys() - saved.keys()):
        walk.missing(f"{path}/{name}")
    for name in sorted(saved.keys() - live.keys()):
        walk.unexpected(f"{path}/{name}")


def _updater(attributes: dict[str, Any], new: dict[str, Any]) -> Callable[[], None]:
    return lambda: attributes.update(new)


def _finish(scheduler: LRScheduler, new: dict[str, Any]) -> None:
    vars(scheduler).update(new)
    _settle(scheduler)


def _settle(scheduler: LRScheduler) -> None:
    """Let a cyclic schedule bind its scale function to the restored values."""
    bind = getattr(scheduler, "_init_scale_fn", None)
    if bind is not None:
        bind()
