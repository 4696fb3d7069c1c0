"""What a live state holds, below its dicts, lists and tuples."""

from __future__ import annotations

from typing import Any


def leaves(value: Any) -> list[Any]:
    """Every object in nested containers, in order."""
    if isinstance(value, dict):
        return [leaf for item in value.values() for leaf in leaves(item)]
    if isinstance(value, list | tuple):
        return [leaf for item in value for leaf in leaves(item)]
    return [value]
