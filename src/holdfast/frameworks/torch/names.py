"""Names of parameters and buffers that do not depend on wrappers."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Mapping
from functools import lru_cache
from typing import Any

import torch

_WRAPPERS = {"DataParallel": "module", "DistributedDataParallel": "module", "OptimizedModule": "_orig_mod"}
"""Wrappers of torch, by class, and the child that they add to each name."""


def submodules(root: torch.nn.Module) -> Iterator[tuple[str, torch.nn.Module]]:
    """Every module once, by canonical name: what only wraps shares the name of what it wraps."""
    seen: set[int] = set()
    waiting = [("", root)]
    while waiting:
        name, module = waiting.pop()
        if id(module) in seen:
            continue
        seen.add(id(module))
        yield name, module
        if module._modules:
            kind: Any = type(module)
            inner = _wrapped_child(kind)
            children = [
                (name if child == inner else join(name, child), sub)
                for child, sub in module._modules.items()
                if sub is not None
            ]
            waiting.extend(reversed(children))


@lru_cache(maxsize=256)
def _wrapped_child(kind: type) -> str | None:
    for base in kind.__mro__:
        if base.__name__ in _WRAPPERS and base.__module__.startswith("torch."):
            return _WRAPPERS[base.__name__]
    return None


def join(prefix: str, name: str) -> str:
    return f"{prefix}.{name}" if prefix else name


def parameter_names(state: Mapping[str, object]) -> dict[int, str]:
    """Names of all parameters found in a state, by ``id``; an optimizer alone knows none."""
    names: dict[int, str] = {}
    for path, value in _leaves(state, ""):
        if isinstance(value, torch.Tensor):
            names.setdefault(id(value), path)
            continue
        for prefix, module in submodules(value):
            for key, parameter in module._parameters.items():
                if parameter is not None:
                    names.setdefault(id(parameter), f"{path}/{join(prefix, key)}")
    return names


def parameters_by_name(state: Mapping[str, object]) -> dict[str, torch.Tensor]:
    """The reverse of `parameter_names`."""
    by_id: dict[int, torch.Tensor] = {}
    for _, value in _leaves(state, ""):
        found = [value] if isinstance(value, torch.Tensor) else value.parameters()
        by_id.update({id(parameter): parameter for parameter in found})
    return {name: by_id[key] for key, name in parameter_names(state).items()}


def _leaves(value: object, path: str) -> Iterator[tuple[str, torch.nn.Module | torch.Tensor]]:
    if isinstance(value, torch.nn.Module | torch.Tensor):
        yield path, value
    elif isinstance(value, Mapping):
        for key, item in value.items():
            yield from _leaves(item, f"{path}/{key}" if path else str(key))
    elif isinstance(value, list | tuple):
        for index, item in enumerate(value):
            yield from _leaves(item, f"{path}/{index}")
    elif dataclasses.is_dataclass(value) and not isinstance(value, type):
        for field in dataclasses.fields(value):
            yield from _leaves(getattr(value, field.name, None), f"{path}/{field.name}")
