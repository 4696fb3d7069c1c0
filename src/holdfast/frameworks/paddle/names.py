"""Names of parameters and buffers that depend neither on wrappers nor on Paddle's counters."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Mapping
from typing import Any

import paddle


def sublayers(root: Any) -> Iterator[tuple[str, Any]]:
    """Every layer once, by canonical name: what only wraps shares the name of what it wraps."""
    seen: set[int] = set()
    waiting = [("", root)]
    while waiting:
        name, layer = waiting.pop()
        if id(layer) in seen:
            continue
        seen.add(id(layer))
        yield name, layer
        wraps = _is_wrapper(layer)
        children = [
            (name if wraps and key == "_layers" else join(name, key), child)
            for key, child in layer._sub_layers.items()
            if child is not None
        ]
        waiting.extend(reversed(children))


def _is_wrapper(layer: Any) -> bool:
    """Whether a layer is DataParallel or one of fleet's, which hold the model in ``_layers``."""
    module = type(layer).__module__
    return isinstance(layer, paddle.DataParallel) or module.startswith("paddle.distributed.")


def join(prefix: str, name: str) -> str:
    return f"{prefix}.{name}" if prefix else name


def parameter_names(state: Mapping[str, object]) -> dict[int, str]:
    """Names of all parameters found in a state, by ``id``; an optimizer alone knows none."""
    names: dict[int, str] = {}
    for path, value in leaves(state):
        if isinstance(value, paddle.Tensor):
            names.setdefault(id(value), path)
        elif isinstance(value, paddle.nn.Layer):
            for prefix, layer in sublayers(value):
                for key, parameter in layer._parameters.items():
                    if parameter is not None:
                        names.setdefault(id(parameter), f"{path}/{join(prefix, key)}")
    return names


def leaves(value: object, path: str = "") -> Iterator[tuple[str, object]]:
    """Everything in a state that is no container, with its path."""
    if isinstance(value, Mapping):
        items: list[tuple[object, object]] = list(value.items())
    elif isinstance(value, list | tuple):
        items = list(enumerate(value))
    elif dataclasses.is_dataclass(value) and not isinstance(value, type):
        items = [(field.name, getattr(value, field.name, None)) for field in dataclasses.fields(value)]
    else:
        yield path, value
        return
    for key, item in items:
        yield from leaves(item, f"{path}/{key}" if path else str(key))
