"""What a live state holds, below its dicts, lists and tuples."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any


def leaves(value: Any) -> list[Any]:
    """Every object in nested containers, in order; a container inside itself is not entered again."""
    return list(_below(value, ()))


def _below(value: Any, around: tuple[int, ...]) -> Iterator[Any]:
    if not isinstance(value, dict | list | tuple):
        yield value
    elif id(value) not in around:
        for item in value.values() if isinstance(value, dict) else value:
            yield from _below(item, (*around, id(value)))
