"""Chunks decoded a moment ago, kept for those that are encoded by them."""

from __future__ import annotations

import threading
from collections import OrderedDict
from typing import TYPE_CHECKING

from holdfast.repository.index import Copy

if TYPE_CHECKING:
    import numpy as np
    import numpy.typing as npt

    Bytes = npt.NDArray[np.uint8]

MOST_BYTES = 64 * 1024 * 1024
"""As many as a pack holds: there, bases lie before what needs them."""


class DecodedChunks:
    """The newest so many bytes; several threads may use it."""

    def __init__(self) -> None:
        self._chunks: OrderedDict[tuple[str, bytes], Bytes] = OrderedDict()
        self._size_bytes = 0
        self._lock = threading.Lock()

    def keep(self, copy: Copy, raw: Bytes) -> Bytes:
        """Keep what a copy was decoded to, in memory of its own; return it."""
        with self._lock:
            self._size_bytes += len(raw) - len(self._chunks.pop(_key(copy), ()))
            self._chunks[_key(copy)] = raw
            while self._size_bytes > MOST_BYTES:
                _, oldest = self._chunks.popitem(last=False)
                self._size_bytes -= len(oldest)
        return raw

    def find(self, copy: Copy) -> Bytes | None:
        """What was kept of a copy, if it still is."""
        return self._chunks.get(_key(copy))


def _key(copy: Copy) -> tuple[str, bytes]:
    return copy.pack, copy.entry.digest
