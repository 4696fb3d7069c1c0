"""What is written is what was digested, whatever happens to the tensor meanwhile."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import TYPE_CHECKING

import blake3
import numpy as np
import numpy.typing as npt
import pytest

from holdfast.domain.tensors import TensorSpec
from holdfast.repository import layout, writing
from holdfast.repository.pack import read_index
from holdfast.repository.writing import PackWriter
from holdfast.storage.memory import MemoryStorage

if TYPE_CHECKING:
    from holdfast.storage.base import Buffer, Storage

CHUNK_BYTES = 4096


class Live:
    """A tensor that others write to."""

    def __init__(self, size_bytes: int) -> None:
        self.data = np.arange(size_bytes, dtype=np.uint32).astype(np.uint8)
        self.spec = TensorSpec("uint8", (size_bytes,))

    def read(self) -> npt.NDArray[np.uint8]:
        return self.data


class Remote(MemoryStorage):
    """Reached over a network: packs are sent whole. Notes in how many parts each came."""

    def __init__(self) -> None:
        super().__init__()
        self.parts: list[int] = []

    @property
    def sends_whole(self) -> bool:
        return True

    def put(self, key: str, parts: Iterable[Buffer]) -> None:
        copied = [bytes(part) for part in parts]
        self.parts.append(len(copied))
        super().put(key, copied)


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


def contents(storage: Storage, pack_id: str) -> list[tuple[bytes, bytes]]:
    entries = read_index(storage, pack_id).entries
    key = layout.pack(pack_id)
    return [(e.digest, storage.get(key, e.offset, e.offset + e.stored_bytes)) for e in entries]


def test_a_pack_is_the_same_sent_whole_or_in_parts(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(writing, "PACK_BYTES", 4 * CHUNK_BYTES)
    monkeypatch.setattr(writing, "WRITERS", 1)  # who comes second finds what the first has written
    chance = np.random.default_rng(0)
    sources: dict[str, Live] = {}
    for number in range(12):
        sources[f"t{number}"] = one = Live(int(chance.integers(0, 5 * CHUNK_BYTES)))
        one.data = chance.integers(0, 256, len(one.data), np.uint8)
    sources["again"] = sources["t3"]
    known = blake3.blake3(sources["t5"].data[:CHUNK_BYTES].data).digest()
    found = {}
    for storage in (MemoryStorage(), remote := Remote()):
        writer = PackWriter(storage, CHUNK_BYTES, lambda digest: "there" if digest == known else None)
        written = writer.write(sources, {})
        packs = [contents(storage, pack_id) for pack_id in written.new_packs]
        assert all(blake3.blake3(data).digest() == digest for pack in packs for digest, data in pack)
        assert known not in {digest for pack in packs for digest, _ in pack}
        found[type(storage)] = packs, written.tensors, written.new_bytes, written.used_packs
    assert found[Remote] == found[MemoryStorage]
    assert len(found[Remote][0]) > 3
    assert set(remote.parts) == {1}
