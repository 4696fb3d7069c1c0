"""Live objects that a failed load left half written: nothing may be saved from them."""

from __future__ import annotations

import weakref
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, suppress
from typing import Any

from holdfast.errors import PoisonedError

_half_written: dict[int, weakref.ref[Any]] = {}


@contextmanager
def while_writing(values: Iterable[object]) -> Iterator[None]:
    """Mark these objects while a load writes to them; they stay marked if it fails."""
    leaves = [leaf for value in values for leaf in _leaves(value)]
    for leaf in leaves:
        with suppress(TypeError):  # a plain value is replaced whole, in the end
            _half_written[id(leaf)] = weakref.ref(leaf)
    yield
    for leaf in leaves:
        _half_written.pop(id(leaf), None)


def refuse(values: Iterable[object]) -> None:
    """Refuse to use objects that a failed load has left half written.

    Raises
    ------
    PoisonedError
    """
    if _half_written and any(_is_poisoned(leaf) for value in values for leaf in _leaves(value)):
        raise PoisonedError(
            "A load failed half way, so the live state is neither old nor new; it is not used any further.",
            do="Load a checkpoint in full first, or build the state anew.",
        )


def _is_poisoned(leaf: object) -> bool:
    mark = _half_written.get(id(leaf))
    return mark is not None and mark() is leaf


def _leaves(value: Any) -> Iterator[Any]:
    if isinstance(value, dict):
        for item in value.values():
            yield from _leaves(item)
    elif isinstance(value, list | tuple):
        for item in value:
            yield from _leaves(item)
    else:
        yield value
