"""A storage in this process's memory: for tests, notebooks and what need not outlive them."""

from __future__ import annotations

import threading
import time
from bisect import bisect_right
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

import msgspec
import numpy as np

from holdfast.errors import NotFoundError
from holdfast.storage.base import ObjectStat
from holdfast.storage.keys import check_key, check_prefix

if TYPE_CHECKING:
    import numpy.typing as npt

    from holdfast.storage.base import Buffer


class _Object(msgspec.Struct, frozen=True):
    data: bytes
    modified_seconds: float


class MemoryStorage:
    """Objects in a dict; safe from many threads. It lives and dies with its process."""

    def __init__(self) -> None:
        self._objects: dict[str, _Object] = {}
        self._holders: dict[str, int] = {}  # of each lock: -1 exclusive, n > 0 shared
        self._changed = threading.Condition()

    @property
    def location(self) -> str:
        return f"memory:{id(self):x}"

    def put(self, key: str, parts: Iterable[Buffer]) -> None:
        check_key(key)
        data = b"".join(bytes(part) for part in parts)
        with self._changed:
            self._objects[key] = _Object(data, self.now_seconds())

    def put_if_absent(self, key: str, data: bytes) -> bool:
        check_key(key)
        with self._changed:
            if key in self._objects:
                return False
            self._objects[key] = _Object(bytes(data), self.now_seconds())
            return True

    def get(self, key: str, start: int = 0, stop: int | None = None) -> bytes:
        data = self._found(key).data
        return data[start : len(data) if stop is None else max(stop, start)]

    def read_into(self, key: str, start: int, buffer: npt.NDArray[np.uint8]) -> int:
        data = self._found(key).data
        taken = max(min(len(buffer), len(data) - start), 0)
        if taken:
            np.copyto(buffer[:taken], np.frombuffer(data, np.uint8, taken, start))
        return taken

    def list(self, prefix: str, start_after: str = "") -> Iterator[str]:
        check_prefix(prefix)
        with self._changed:
            keys = sorted(key for key in self._objects if key.startswith(prefix))
        yield from keys[bisect_right(keys, start_after) :]

    def delete(self, key: str) -> None:
        check_key(key)
        with self._changed:
            self._objects.pop(key, None)

    def stat(self, key: str) -> ObjectStat | None:
        check_key(key)
        found = self._objects.get(key)
        if found is None:
            return None
        return ObjectStat(size_bytes=len(found.data), modified_seconds=found.modified_seconds)

    def now_seconds(self) -> float:
        return time.time()

    def free_bytes(self) -> int | None:
        return None

    @property
    def exclusive_locks(self) -> bool:
        return True

    @property
    def sends_whole(self) -> bool:
        return False

    @contextmanager
    def lock(self, name: str, *, shared: bool, wait_seconds: float) -> Iterator[bool]:
        with self._changed:
            held = self._changed.wait_for(lambda: self._is_free(name, shared=shared), wait_seconds)
            if held:
                self._holders[name] = self._holders.get(name, 0) + 1 if shared else -1
        try:
            yield held
        finally:
            if held:
                self._let_go(name)

    def _is_free(self, name: str, *, shared: bool) -> bool:
        holders = self._holders.get(name, 0)
        return holders >= 0 if shared else holders == 0

    def _let_go(self, name: str) -> None:
        with self._changed:
            left = self._holders.pop(name)
            if left > 1:
                self._holders[name] = left - 1
            self._changed.notify_all()

    def _found(self, key: str) -> _Object:
        check_key(key)
        found = self._objects.get(key)
        if found is None:
            raise NotFoundError(f"There is no {key} in {self.location}.")
        return found
