"""The contract of every place where bytes rest.

Keys are relative POSIX paths such as ``packs/3f/3f9a.pack``; a storage never interprets
them beyond folders. What `put` or `put_if_absent` has returned from survives power loss.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from contextlib import AbstractContextManager
from typing import TYPE_CHECKING, Protocol, TypeAlias, runtime_checkable

import msgspec

if TYPE_CHECKING:
    import numpy as np
    import numpy.typing as npt

    Buffer: TypeAlias = bytes | bytearray | memoryview | npt.NDArray[np.uint8]


class ObjectStat(msgspec.Struct, frozen=True):
    """Size and, by the storage's own clock, age of an object."""

    size_bytes: int
    modified_seconds: float


class Storage(Protocol):
    """Where bytes rest: a local folder, memory, an object store."""

    @property
    def location(self) -> str:
        """Path or URL, for messages."""
        ...

    def put(self, key: str, parts: Iterable[Buffer]) -> None:
        """Write an object whole, replacing one of that name atomically; durable on return.

        ``parts`` is consumed once, in order; each buffer may be reused by the producer
        after the next one is asked for. If it raises, nothing becomes visible.

        Raises
        ------
        StorageError
            Nothing became visible, or (outcome unknown) exactly this object did.
        """
        ...

    def put_if_absent(self, key: str, data: bytes) -> bool:
        """Create an object; False, changing nothing, if the key exists. Durable on return."""
        ...

    def get(self, key: str, start: int = 0, stop: int | None = None) -> bytes:
        """Read bytes ``[start, stop)``; shorter at the object's end. NotFoundError if absent."""
        ...

    def read_into(self, key: str, start: int, buffer: npt.NDArray[np.uint8]) -> int:
        """Fill ``buffer`` (uint8[n]) from ``start``; return the bytes read (< n at the end)."""
        ...

    def list(self, prefix: str, start_after: str = "") -> Iterator[str]:
        """Keys below the folder ``prefix`` (ending in ``/``, or empty), sorted, recursive."""
        ...

    def delete(self, key: str) -> None:
        """Remove an object; no error if it is gone already. Durable on return."""
        ...

    def stat(self, key: str) -> ObjectStat | None:
        """Size and age; None if absent."""
        ...

    def now_seconds(self) -> float:
        """The storage's own time, comparable with `ObjectStat.modified_seconds`."""
        ...

    def free_bytes(self) -> int | None:
        """Room for new objects; None where there is no such limit."""
        ...

    def lock(self, name: str, *, shared: bool, wait_seconds: float) -> AbstractContextManager[bool]:
        """A kernel lock that dies with its holder.

        Yields True while held; False if not to be had in time, or if the storage has none
        (then `exclusive_locks` is False and grace periods stand in for it).
        """
        ...

    @property
    def exclusive_locks(self) -> bool:
        """Whether `lock` really excludes every other process that uses this storage."""
        ...

    @property
    def sends_whole(self) -> bool:
        """Whether `put` sends what comes in one part from where it lies; else several parts are better."""
        ...


@runtime_checkable
class KeepsTemporaries(Protocol):
    """A storage in which a killed writer may leave files that are no objects."""

    def sweep_temporaries(self, *, older_than_seconds: float) -> int:
        """Remove those that are old and have no living writer; return how many."""
        ...


@runtime_checkable
class KeepsApart(Protocol):
    """A storage of which it must be tried whether it honours "create only if absent"."""

    def check_conditions(self) -> str:
        """Try it, once, and say by which header it does; StorageError if by none."""
