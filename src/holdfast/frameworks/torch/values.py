"""Nested values inside optimizers and schedulers: replaced as a whole, aliases kept."""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterable
from typing import Any

import torch

from holdfast.domain.tensors import TensorRef, TensorSpec
from holdfast.domain.tree import Component
from holdfast.frameworks.base import CaptureWalk, LoadWalk
from holdfast.frameworks.torch import tensors

MakeTensor = Callable[[TensorRef, TensorSpec], torch.Tensor]


class Capturing:
    """Captures nested values; one tensor met twice (an ``lr`` of all groups) is stored once."""

    def __init__(self, walk: CaptureWalk) -> None:
        self._walk = walk
        self._met: dict[int, Any] = {}

    def has_met(self, live: Iterable[torch.Tensor]) -> bool:
        return not self._met.keys().isdisjoint(map(id, live))

    def value(self, value: Any, path: str) -> Any:
        if isinstance(value, torch.Tensor):
            if id(value) not in self._met:
                self._met[id(value)] = self._walk.value(value, path)
            return self._met[id(value)]
        if isinstance(value, dict):
            return {k: self.value(v, f"{path}/{k}") for k, v in value.items()}
        if isinstance(value, list | tuple):
            items = [self.value(v, f"{path}/{i}") for i, v in enumerate(value)]
            return items if isinstance(value, list) else tuple(items)
        return self._walk.value(value, path)


class Renewing:
    """Plans new values for saved ones.

    Unlike the walk, it takes a saved number where a tensor lives now, and the reverse: which of
    them an optimizer holds is part of its state. With ``reuse``, a live tensor of the same dtype
    and shape is filled in place, once, so that memory and captured graphs stay valid.
    """

    def __init__(self, walk: LoadWalk, *, reuse: bool) -> None:
        self._walk = walk
        self._reuse = reuse
        self._made: dict[str, torch.Tensor] = {}
        self._used: set[int] = set()

    def value(self, saved: Any, live: Any, path: str, make: MakeTensor | None = None) -> Any:
        if isinstance(saved, TensorRef) and saved.framework == "torch":
            return self._tensor(saved, live, make or _like_saved)
        if isinstance(saved, TensorRef):
            return self._walk.value(saved, None, path)
        if isinstance(saved, Component):
            stateful = not isinstance(live, torch.Tensor)  # a sparse tensor is made anew
            return self._walk.value(saved, live if stateful else None, path)
        if isinstance(saved, dict):
            olds = live if isinstance(live, dict) else {}
            return _of_type(
                live, {k: self.value(v, olds.get(k), f"{path}/{k}", make) for k, v in saved.items()}
            )
        if isinstance(saved, list | tuple):
            matching = isinstance(live, list | tuple) and len(live) == len(saved)
            items = [
                self.value(v, live[i] if matching else None, f"{path}/{i}", make) for i, v in enumerate(saved)
            ]
            return items if isinstance(saved, list) else tuple(items)
        return saved

    def _tensor(self, ref: TensorRef, live: Any, make: MakeTensor) -> torch.Tensor:
        if ref.name in self._made:
            return self._made[ref.name]
        spec = self._walk.spec(ref)
        target = self._target(live, spec)
        tensor: torch.Tensor = make(ref, spec) if target is None else live
        self._made[ref.name] = tensor
        self._walk.read(ref, target or tensors.target(tensor))
        return tensor

    def _target(self, live: Any, spec: TensorSpec) -> tensors.Target | None:
        """The live tensor to fill; None if it does not fit or has been given away."""
        if not self._reuse or not isinstance(live, torch.Tensor) or tensors.refused(live) is not None:
            return None
        memory, target = live.untyped_storage().data_ptr(), tensors.Target(live)
        if memory in self._used or target.spec != spec or 0 in live.stride():
            return None
        self._used.add(memory)
        return target


def _like_saved(ref: TensorRef, spec: TensorSpec) -> torch.Tensor:
    return tensors.new_tensor(spec, ref.device)[0]


def _of_type(live: Any, new: dict[Any, Any]) -> dict[Any, Any]:
    """As the live dict's type (``Counter`` ...), in a new object."""
    if type(live) is dict or not isinstance(live, dict):
        return new
    result: dict[Any, Any] = copy.copy(live)
    result.clear()
    result.update(new)
    return result


def plain_value(value: Any) -> Any:
    """A plain copy of what a script can give; ``NotImplemented`` if it is something else."""
    if isinstance(value, torch.Tensor):
        return value.item() if value.numel() == 1 else NotImplemented
    if isinstance(value, bool | int | float | str | type(None)):
        return value
    if isinstance(value, dict):
        items = {k: plain_value(v) for k, v in value.items()}
        return NotImplemented if NotImplemented in items.values() else items
    if isinstance(value, list | tuple):
        members = [plain_value(v) for v in value]
        return NotImplemented if any(m is NotImplemented for m in members) else members
    return NotImplemented


def assign_like(values: dict[str, Any], key: str, value: Any) -> None:
    """Set a plain value where a tensor or tuple may live: kept as such."""
    live = values.get(key)
    if isinstance(live, torch.Tensor):
        with torch.no_grad():
            live.fill_(value)
    elif isinstance(live, list) and any(isinstance(item, torch.Tensor) for item in live):
        values[key] = [torch.full_like(old, new) for old, new in zip(live, value, strict=True)]
    elif isinstance(live, dict):
        values[key] = _of_type(live, value)
    else:
        values[key] = tuple(value) if isinstance(live, tuple) else value
