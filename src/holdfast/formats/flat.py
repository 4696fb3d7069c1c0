"""Nested state as one table of named tensors, as ``.safetensors`` has it."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

import msgspec

from holdfast.domain.tensors import TensorRef
from holdfast.domain.tree import Component
from holdfast.errors import UnsupportedError
from holdfast.formats.reading import SavedState

STEP, RUN, CHECKPOINT = "holdfast.step", "holdfast.run", "holdfast.checkpoint"
ENTRIES = "holdfast.entries"
"""Metadata of our ``.safetensors`` files: where they come from, and the entries by kind."""


class FlatTable(msgspec.Struct):
    """Tensors by dotted name.

    Attributes
    ----------
    tensors : dict[str, TensorRef]
        Each stored tensor once.
    tied : dict[str, str]
        Further names of a tensor, to the name that it is stored under.
    """

    tensors: dict[str, TensorRef]
    tied: dict[str, str]


def origin(saved: SavedState) -> dict[str, str]:
    """Where a file comes from, as metadata."""
    return {RUN: saved.run.name, STEP: str(saved.checkpoint.step), CHECKPOINT: str(saved.checkpoint)}


def flatten(view: Any) -> FlatTable:
    """Collect every tensor of a view; the alphabetically first name of a tied one is its own.

    Raises
    ------
    UnsupportedError
        Two tensors would have one name.
    """
    names: dict[str, list[str]] = {}
    refs: dict[str, TensorRef] = {}
    taken: set[str] = set()
    for name, ref in _leaves(view, ""):
        if name in taken:
            raise UnsupportedError(
                f"Two tensors of the state would both be named {name!r}.",
                do="Export them separately with only=.",
            )
        taken.add(name)
        refs[ref.name] = ref
        names.setdefault(ref.name, []).append(name)
    leaders = {key: min(same) for key, same in names.items()}
    return FlatTable(
        tensors={leaders[key]: refs[key] for key in names},
        tied={name: leaders[key] for key, same in names.items() for name in same if name != leaders[key]},
    )


def _leaves(view: Any, path: str) -> Iterator[tuple[str, TensorRef]]:
    if isinstance(view, TensorRef):
        yield path or "tensor", view
    elif isinstance(view, Component):
        yield from _leaves(view.state, path)
    elif isinstance(view, Mapping):
        for key, item in view.items():
            yield from _leaves(item, f"{path}.{key}" if path else str(key))
    elif isinstance(view, list | tuple):
        for index, item in enumerate(view):
            yield from _leaves(item, f"{path}.{index}" if path else str(index))
