"""Bounds on what a foreign file may hold: small files can unfold into endless structures."""

from __future__ import annotations

from holdfast.errors import DamagedError

MAX_VALUES = 5_000_000
MAX_DEPTH = 100


def check_bounds(value: object, what: str) -> None:
    """Refuse containers nested too deeply, within themselves, or of too many values in all.

    Raises
    ------
    DamagedError
    """
    waiting = [(value, 0)]
    count = 0
    while waiting:
        item, depth = waiting.pop()
        if isinstance(item, dict):
            inner: list[object] = [*item.keys(), *item.values()]
        elif isinstance(item, list | tuple | set | frozenset):
            inner = list(item)
        else:
            continue
        count += len(inner)
        if depth > MAX_DEPTH or count > MAX_VALUES:
            raise DamagedError(
                f"{what} holds containers nested too deeply or too many values.",
                do="Import a file of plain state dicts.",
            )
        waiting.extend((part, depth + 1) for part in inner)
