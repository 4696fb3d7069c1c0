"""What is written is what was digested, whatever happens to the tensor meanwhile."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import TYPE_CHECKING

import blake3
import numpy as np
import numpy.typing as npt

from holdfast.domain.tensors import TensorSpec
from holdfast.repository import layout
from holdfast.repository.pack import read_index
from holdfast.repository.writing import PackWriter
from holdfast.storage.memory import MemoryStorage

if TYPE_CHECKING:
    from holdfast.storage.base import Buffer

CHUNK_BYTES = 4096


class Live:
    """A tensor that others write to."""

    def __init__(self, size_bytes: int) -> None:
        self.data = np.arange(size_bytes, dtype=np.uint32).astype(np.uint8)
        self.spec = TensorSpec("uint8", (size_bytes,))

    def read(self) -> npt.NDArray[np.uint8]:
        return self.data


class Meddling(MemoryStorage):
    """Changes the tensor between the digest and the write of every part."""

    def __init__(self, live: Live) -> None:
        super().__init__()
        self._live = live

    def put(self, key: str, parts: Iterable[Buffer]) -> None:
        super().put(key, self._meddled(parts))

    def _meddled(self, parts: Iterable[Buffer]) -> Iterator[Buffer]:
        for part in parts:
            self._live.data += 1
            yield part


def test_a_tensor_changed_during_the_save_leaves_chunks_that_verify() -> None:
    live = Live(3 * CHUNK_BYTES + 5)
    storage = Meddling(live)
    written = PackWriter(storage, CHUNK_BYTES, lambda digest: None).write({"w": live}, {})
    (pack_id,) = written.new_packs
    for entry in read_index(storage, pack_id).entries:
        stored = storage.get(layout.pack(pack_id), entry.offset, entry.offset + entry.stored_bytes)
        assert blake3.blake3(stored).digest() == entry.digest
