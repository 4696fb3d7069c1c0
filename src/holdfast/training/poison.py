"""Live objects that a failed load left half written: nothing may be saved from them."""

from __future__ import annotations

import weakref
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, suppress
from typing import Any

from holdfast.errors import PoisonedError
from holdfast.training.leaves import leaves

_half_written: dict[int, weakref.ref[Any]] = {}


@contextmanager
def while_writing(values: Iterable[object]) -> Iterator[None]:
    """Mark these objects while a load writes to them; they stay marked if it fails."""
    written = leaves(list(values))
    for leaf in written:
        with suppress(TypeError):  # a plain value is replaced whole, in the end
            _half_written[id(leaf)] = weakref.ref(leaf)
    yield
    for leaf in written:
        _half_written.pop(id(leaf), None)


def refuse(values: Iterable[object]) -> None:
    """Refuse to use objects that a failed load has left half written.

    Raises
    ------
    PoisonedError
    """
    if _half_written and any(map(_is_poisoned, leaves(list(values)))):
        raise PoisonedError(
            "A load failed half way, so the live state is neither old nor new; it is not used any further.",
            do="Load a checkpoint in full first, or build the state anew.",
        )


def _is_poisoned(leaf: object) -> bool:
    mark = _half_written.get(id(leaf))
    return mark is not None and mark() is leaf
