"""Chunks decoded a moment ago, kept for those that are encoded by them."""

from __future__ import annotations

import threading
from collections import OrderedDict
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
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
        self._coming: set[tuple[str, bytes]] = set()
        self._changed = threading.Condition()

    @contextmanager
    def coming(self, copies: Iterable[Copy]) -> Iterator[None]:
        """These are being decoded by this thread, in their order: who needs one waits for it."""
        keys = {_key(copy) for copy in copies}
        with self._changed:
            self._coming |= keys
        try:
            yield
        finally:
            with self._changed:
                self._coming -= keys
                self._changed.notify_all()

    def keep(self, copy: Copy, raw: Bytes) -> Bytes:
        """Keep what a copy was decoded to, in memory of its own; return it."""
        with self._changed:
            self._size_bytes += len(raw) - len(self._chunks.pop(_key(copy), ()))
            self._chunks[_key(copy)] = raw
            while self._size_bytes > MOST_BYTES:
                _, oldest = self._chunks.popitem(last=False)
                self._size_bytes -= len(oldest)
            self._passed(copy)
        return raw

    def failed(self, copy: Copy) -> None:
        """Nobody need wait for it any more."""
        with self._changed:
            self._passed(copy)

    def _passed(self, copy: Copy) -> None:
        if _key(copy) in self._coming:
            self._coming.discard(_key(copy))
            self._changed.notify_all()

    def find(self, base: Copy, above: Copy) -> Bytes | None:
        """What was kept of a base, if it still is; waits for another thread that is about to decode it.

        Only what lies before the copy that it is for is waited for: so nobody waits in a circle, not even
        where a forged index would have it.
        """
        key = _key(base)
        with self._changed:
            if base.entry.offset < above.entry.offset:
                self._changed.wait_for(lambda: key not in self._coming)
            return self._chunks.get(key)


def _key(copy: Copy) -> tuple[str, bytes]:
    return copy.pack, copy.entry.digest
