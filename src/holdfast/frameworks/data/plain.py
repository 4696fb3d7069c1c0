"""Exact positions in what plain Python iterates: sequences, and objects that keep their own state."""

from __future__ import annotations

import zlib
from collections.abc import Iterator, Mapping, Set
from typing import Any

from holdfast.errors import UnsupportedError
from holdfast.frameworks.base import PositionedLoader
from holdfast.frameworks.data import packed
from holdfast.frameworks.data.own_state import OwnState, watched
from holdfast.frameworks.data.passes import keeps_state


def positioned(value: object) -> PositionedLoader:
    """A positioned view of a sequence or of an iterable that keeps its own state.

    Raises
    ------
    UnsupportedError
        Anything else; says the way out.
    """
    if keeps_state(value) and hasattr(value, "__iter__"):
        return _StatefulLoader(value)
    if hasattr(value, "__getitem__") and hasattr(value, "__len__") and not isinstance(value, Mapping | Set):
        return _SequenceLoader(value)
    raise UnsupportedError(
        f"The position in a {type(value).__name__} cannot be kept: it can neither be indexed nor asked "
        "for its state.",
        do="Pass the DataLoader itself (tqdm, enumerate and the like go around batches()), a sequence "
        "(a list, a range), or an iterable with state_dict() and load_state_dict().",
    )


def count(batch: Any) -> int:
    """Samples in a batch, as far as its shape tells: length along the first axis of its first array."""
    if isinstance(batch, Mapping):
        batch = list(batch.values())
    shape = getattr(batch, "shape", None)
    if shape is not None:
        return int(shape[0]) if len(shape) else 1
    if isinstance(batch, list | tuple) and batch:
        return count(batch[0])
    return 1


class _Pass:
    def __init__(self, number: int, saved: dict[str, Any] | None) -> None:
        self.inexact: str | None = None
        self.delivered: int = saved["delivered"] if saved else 0
        self.samples: int = saved["samples"] if saved else 0
        self._number = number
        self._finished = bool(saved and saved["finished"])

    def __iter__(self) -> Iterator[Any]:
        return self

    def __next__(self) -> Any:
        if self._finished:
            raise StopIteration
        try:
            batch = self._take()
        except StopIteration:
            self._finished = True
            raise
        self.delivered += 1
        self.samples += count(batch)
        return batch

    def _take(self) -> Any:
        raise NotImplementedError

    def close(self) -> None:
        self._finished = True

    def _state(self, kind: str, own: bytes | None) -> dict[str, Any]:
        return {
            "kind": kind,
            "number": self._number,
            "delivered": self.delivered,
            "samples": self.samples,
            "finished": self._finished,
            "own": own,
        }


_CHECKED_BYTES = 64 * 1024


def _check(values: Any, place: int) -> int | None:
    """Tells an item of a list from others; None where it cannot, or only by running code or for long."""
    if type(values) not in (list, tuple) or not 0 <= place < len(values):
        return None
    item = values[place]
    held = item.values() if isinstance(item, dict) else item
    parts = held if isinstance(item, dict | list | tuple) else (item,)
    if sum(getattr(part, "nbytes", 0) for part in parts) > _CHECKED_BYTES:
        return None
    try:
        return zlib.crc32(packed.pack(item, "an item"))
    except UnsupportedError:
        return None


class _SequencePass(_Pass):
    def __init__(self, values: Any, number: int, saved: dict[str, Any] | None) -> None:
        super().__init__(number, saved)
        self._values = values
        if saved and None not in (before := saved.get("check"), now := self._last()) and before != now:
            self.inexact = "the list is in another order (one that is shuffled in place? shuffle a copy)"

    def _last(self) -> int | None:
        return _check(self._values, self.delivered - 1)

    def _take(self) -> Any:
        if self.delivered >= len(self._values):
            raise StopIteration
        return self._values[self.delivered]

    def state(self) -> dict[str, Any]:
        return self._state("sequence", None) | {"check": self._last()}


class _SequenceLoader:
    def __init__(self, values: Any) -> None:
        self._values = values

    def start(self, *, seed: int, number: int, saved: dict[str, Any] | None) -> _SequencePass:
        resumes = saved is not None and saved["number"] == number
        return _SequencePass(self._values, number, saved if resumes else None)

    def left(self, saved: dict[str, Any]) -> dict[str, Any]:
        return saved

    def batches(self) -> int | None:
        return len(self._values)

    def facts(self) -> dict[str, Any]:
        return {"length": len(self._values)}


class _StatefulPass(_Pass):
    def __init__(self, values: Any, own: OwnState, number: int, saved: dict[str, Any] | None) -> None:
        super().__init__(number, saved)
        self._values = values
        self._own = own
        self._iterator = iter(values) if not self._finished else iter(())

    def _take(self) -> Any:
        try:
            return next(self._iterator)
        except StopIteration:
            self._own.end()
            raise

    def close(self) -> None:
        if not self._finished:
            self._own.end()
        super().close()

    def state(self) -> dict[str, Any]:
        own = packed.pack(self._values.state_dict(), "the data's state")
        return self._state("stateful", own) | {"script": self._own.script()}


class _StatefulLoader:
    def __init__(self, values: Any) -> None:
        self._values = values
        self._own = watched(values)

    def start(self, *, seed: int, number: int, saved: dict[str, Any] | None) -> _StatefulPass:
        resumes = saved is not None and saved["number"] == number
        if saved is not None:
            (self._own.resume if resumes else self._own.carry)(saved["own"], saved.get("script"))
        self._own.begin()
        return _StatefulPass(self._values, self._own, number, saved if resumes else None)

    def left(self, saved: dict[str, Any]) -> dict[str, Any]:
        return saved

    def batches(self) -> int | None:
        try:
            return len(self._values)
        except (TypeError, NotImplementedError):
            return None

    def facts(self) -> dict[str, Any]:
        return {"type": type(self._values).__name__}
