"""State trees as plain values, for people, programs and comparisons."""

from __future__ import annotations

import datetime as dt
import enum
from collections.abc import Iterator
from typing import Any

from holdfast.domain import tree
from holdfast.domain.tensors import TensorRef
from holdfast.domain.tree import Component
from holdfast.frameworks import classes


def plain_value(node: Any) -> Any:
    """A node as values that JSON has; others become text or small tagged dicts."""
    return as_plain(classes.plain(tree.decode(node)))


def as_plain(value: Any) -> Any:
    """A decoded value as `plain_value` has it."""
    if isinstance(value, TensorRef):
        return {"tensor": value.name}
    if isinstance(value, Component):
        return {"component": value.kind, "state": as_plain(value.state)}
    if isinstance(value, dict):
        return {k if isinstance(k, str) else repr(k): as_plain(v) for k, v in value.items()}
    if isinstance(value, list | tuple | set | frozenset):
        return [as_plain(v) for v in value]
    if isinstance(value, bytes | bytearray):
        return {"bytes": bytes(value).hex()}
    if isinstance(value, complex | dt.date | dt.time | dt.timedelta | enum.Enum):
        return str(value)
    if hasattr(value, "dtype"):  # a NumPy scalar
        return as_plain(value.item())
    return value


def plain_leaves(node: Any) -> dict[str, Any]:
    """Path → plain value of everything in a tree that holds nothing itself; tensors are left out."""
    leaves = _leaves(classes.plain(tree.decode(node)), "")
    return {path: as_plain(v) for path, v in leaves if not isinstance(v, TensorRef)}


def _leaves(value: Any, path: str) -> Iterator[tuple[str, Any]]:
    if isinstance(value, Component):
        yield from _leaves(value.state, path)
    elif isinstance(value, dict) and value:
        for key, item in value.items():
            yield from _leaves(item, f"{path}/{key}" if path else str(key))
    elif isinstance(value, list | tuple) and value:
        for number, item in enumerate(value):
            yield from _leaves(item, f"{path}/{number}")
    else:
        yield path, value
