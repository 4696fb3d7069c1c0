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
        """Keep the bytes of a copy, which were verified; return what is kept."""
        kept = raw.copy()
        with self._lock:
            self._size_bytes += len(kept) - len(self._chunks.pop(_key(copy), ()))
            self._chunks[_key(copy)] = kept
            while self._size_bytes > MOST_BYTES:
                _, oldest = self._chunks.popitem(last=False)
                self._size_bytes -= len(oldest)
        return kept

    def find(self, copy: Copy) -> Bytes | None:
        """What was kept of a copy, if it still is."""
        return self._chunks.get(_key(copy))


def _key(copy: Copy) -> tuple[str, bytes]:
    return copy.pack, copy.entry.digest
