"""State trees as people and programs are told of them."""

from __future__ import annotations

import datetime as dt
import enum
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

from holdfast.cli import text
from holdfast.domain import tree
from holdfast.domain.tensors import TensorRef
from holdfast.domain.tree import Component
from holdfast.frameworks import classes

if TYPE_CHECKING:
    from holdfast.domain.manifest import Manifest

_LONGEST = 60


def plain_value(node: Any) -> Any:
    """A node as values that JSON has; others become text or small tagged dicts."""
    return _plain(classes.plain(tree.decode(node)))


def _plain(value: Any) -> Any:
    if isinstance(value, TensorRef):
        return {"tensor": value.name}
    if isinstance(value, Component):
        return {"component": value.kind, "state": _plain(value.state)}
    if isinstance(value, dict):
        return {k if isinstance(k, str) else repr(k): _plain(v) for k, v in value.items()}
    if isinstance(value, list | tuple | set | frozenset):
        return [_plain(v) for v in value]
    if isinstance(value, bytes | bytearray):
        return {"bytes": bytes(value).hex()}
    if isinstance(value, complex | dt.date | dt.time | dt.timedelta | enum.Enum):
        return str(value)
    if hasattr(value, "dtype"):  # a NumPy scalar
        return _plain(value.item())
    return value


def outline(manifest: Manifest) -> Iterator[str]:
    """The state's entries, one line each: what it is, and how large."""
    sizes = {name: entry.spec.size_bytes for name, entry in manifest.tensors.items()}
    state = classes.plain(tree.decode(manifest.details.tree))
    if not isinstance(state, dict):
        return
    for key, value in state.items():
        yield f"{key}: {_line(value, sizes)}"


def _line(value: Any, sizes: dict[str, int]) -> str:
    names = list(tensor_names(value))
    if isinstance(value, TensorRef):
        return f"tensor, {text.size(sizes.get(value.name))}"
    held = f"{text.several(len(names), 'tensor')}, {text.size(sum(sizes.get(n, 0) for n in names))}"
    if isinstance(value, Component):
        return f"{value.kind}" + (f", {held}" if names else f" {short(_plain(value.state))}")
    if names:
        return f"{type(value).__name__}, {held}"
    return short(_plain(value))


def tensor_names(value: Any) -> Iterator[str]:
    """Names of the tensors that a decoded value refers to."""
    if isinstance(value, TensorRef):
        yield value.name
    elif isinstance(value, Component):
        yield from tensor_names(value.state)
    elif isinstance(value, dict):
        for item in value.values():
            yield from tensor_names(item)
    elif isinstance(value, list | tuple):
        for item in value:
            yield from tensor_names(item)


def short(value: Any) -> str:
    """A value in at most one short line."""
    shown = repr(value)
    return shown if len(shown) <= _LONGEST else f"{shown[: _LONGEST - 3]}..."


def plain_leaves(node: Any) -> dict[str, Any]:
    """Path → plain value of everything in a tree that holds nothing itself; tensors are left out."""
    leaves = _leaves(classes.plain(tree.decode(node)), "")
    return {path: _plain(v) for path, v in leaves if not isinstance(v, TensorRef)}


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
