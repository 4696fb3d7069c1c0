"""State trees as people and programs are told of them."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

from holdfast.cli import text
from holdfast.domain import tree
from holdfast.domain.tensors import TensorRef
from holdfast.domain.tree import Component
from holdfast.frameworks import classes
from holdfast.frameworks.plain_values import as_plain

if TYPE_CHECKING:
    from holdfast.domain.manifest import Manifest

_LONGEST = 60


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
        return f"{value.kind}" + (f", {held}" if names else f" {short(as_plain(value.state))}")
    if names:
        return f"{type(value).__name__}, {held}"
    return short(as_plain(value))


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
