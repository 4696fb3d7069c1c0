"""Reads that are begun before anybody knows what of them is wanted."""

from __future__ import annotations

import errno
import threading
from collections import Counter
from collections.abc import Sequence

import blake3
import numpy as np
import numpy.typing as npt
import pytest

from holdfast.errors import StorageError
from holdfast.repository import layout, readahead
from holdfast.repository.chunks import ChunkReader
from holdfast.repository.index import ChunkIndex
from holdfast.repository.pack import MAGIC, PackBuilder
from holdfast.repository.readahead import BUFFERS, READ_BYTES, ReadAhead, coalesce
from holdfast.storage.memory import MemoryStorage

PACKS = tuple(f"{digit}" * 32 for digit in "0123")


class Given:
    """A sink that remembers what it was given."""

    def __init__(self) -> None:
        self.times: Counter[bytes] = Counter()
        self._lock = threading.Lock()

    def __call__(self, digest: bytes, data: npt.NDArray[np.uint8]) -> None:
        assert blake3.blake3(data.tobytes()).digest() == digest
        with self._lock:
            self.times[digest] += 1


def digest(chunk: bytes) -> bytes:
    return blake3.blake3(chunk).digest()


def put(
    storage: MemoryStorage, pack_id: str, chunks: Sequence[bytes], *, damaged: Sequence[bytes] = ()
) -> None:
    builder = PackBuilder(pack_id)
    parts = [MAGIC]
    for chunk in chunks:
        builder.add(digest(chunk), len(chunk))
        parts.append(bytes(len(chunk)) if chunk in damaged else chunk)
    storage.put(layout.pack(pack_id), [b"".join(parts), *builder.finish()])


def reader(storage: MemoryStorage) -> tuple[ChunkReader, ChunkIndex]:
    index = ChunkIndex(storage)
    return ChunkReader(storage, index), index


def distinct(count: int, size_bytes: int, salt: int = 0) -> list[bytes]:
    return [bytes([salt]) + i.to_bytes(4, "little") * (size_bytes // 4) for i in range(count)]


@pytest.fixture
def small_reads(monkeypatch: pytest.MonkeyPatch) -> None:
    """Several chunks make a read, and there are more reads than buffers."""
    monkeypatch.setattr(readahead, "READ_BYTES", 4096)


@pytest.mark.usefixtures("small_reads")
def test_each_chunk_is_handed_out_once_whatever_was_begun() -> None:
    storage = MemoryStorage()
    shared, chunks = distinct(3, 1000, salt=9), [distinct(40, 1000, salt) for salt in range(3)]
    for pack_id, held in zip(PACKS, chunks, strict=False):
        put(storage, pack_id, [*shared, *held, held[0]])  # twice in one pack, and some in all of them
    wanted = {digest(chunk) for held in (*chunks, shared) for chunk in held}
    reads, _ = reader(storage)
    given = Given()
    with reads.begin(PACKS[:3]) as ahead:
        assert {copy.entry.digest for copy in ahead.copies()} < wanted
        assert not reads.read(wanted, PACKS[:3], given, ahead)
    assert given.times == dict.fromkeys(wanted, 1)


@pytest.mark.usefixtures("small_reads")
def test_what_nobody_wants_is_not_handed_out() -> None:
    storage = MemoryStorage()
    chunks = distinct(100, 1000)
    put(storage, PACKS[0], chunks)
    wanted = {digest(chunk) for chunk in chunks[5:90:7]}
    reads, _ = reader(storage)
    given = Given()
    with reads.begin(PACKS[:1]) as ahead:
        assert not reads.read(wanted, [], given, ahead)
    assert given.times == dict.fromkeys(wanted, 1)


@pytest.mark.parametrize("size_bytes", [100, 1000])
@pytest.mark.usefixtures("small_reads")
def test_damage_in_what_was_begun_is_mended_by_another_copy_or_told(size_bytes: int) -> None:
    storage = MemoryStorage()
    chunks = distinct(30, size_bytes)
    put(storage, PACKS[0], chunks, damaged=chunks[3:5])
    put(storage, PACKS[1], chunks[3:4])
    wanted = {digest(chunk) for chunk in chunks}
    reads, index = reader(storage)
    given = Given()
    with reads.begin(PACKS[:2]) as ahead:
        failed = reads.read(wanted, PACKS[:2], given, ahead)
    assert failed.keys() == {digest(chunks[4])}
    assert PACKS[0] in failed[digest(chunks[4])]
    assert given.times == dict.fromkeys(wanted - failed.keys(), 1)
    assert digest(chunks[4]) not in {copy.entry.digest for copy in index.copies_in(PACKS[0])}


class Unreadable(MemoryStorage):
    """A disk that cannot read one pack, from some place in it on."""

    start = 0

    def get(self, key: str, start: int = 0, stop: int | None = None) -> bytes:
        self._refuse(key, stop)
        return super().get(key, start, stop)

    def read_into(self, key: str, start: int, buffer: npt.NDArray[np.uint8]) -> int:
        self._refuse(key, start + len(buffer))
        return super().read_into(key, start, buffer)

    def _refuse(self, key: str, stop: int | None) -> None:
        if key == layout.pack(PACKS[0]) and self.start and (stop is None or stop > self.start):
            raise StorageError("The device reported an I/O error.", errno=errno.EIO)


@pytest.mark.usefixtures("small_reads")
def test_what_the_disk_cannot_read_comes_from_another_copy_and_is_no_damage() -> None:
    storage = Unreadable()
    chunks = distinct(60, 1000)
    put(storage, PACKS[0], chunks)
    put(storage, PACKS[1], chunks[:50])
    reads, index = reader(storage)
    index.load(PACKS[:2])
    storage.start = index.copies_in(PACKS[0])[20].entry.offset
    given = Given()
    assert not reads.read({digest(chunk) for chunk in chunks[:50]}, PACKS[:2], given)
    assert given.times == dict.fromkeys((digest(chunk) for chunk in chunks[:50]), 1)
    with pytest.raises(StorageError, match="I/O error"):
        reads.read({digest(chunk) for chunk in chunks}, PACKS[:2], Given())
    assert len(index.copies_in(PACKS[0])) == 60


@pytest.mark.usefixtures("small_reads")
def test_a_pack_that_is_gone_is_not_missed_while_another_holds_its_chunks() -> None:
    storage = MemoryStorage()
    chunks = distinct(60, 1000)
    put(storage, PACKS[0], chunks)
    put(storage, PACKS[1], chunks)
    reads, index = reader(storage)
    index.load(PACKS[:1])
    storage.delete(layout.pack(PACKS[0]))
    given = Given()
    with reads.begin([PACKS[3], *PACKS[:1]]) as ahead:  # the first was never there
        assert not reads.read({digest(chunk) for chunk in chunks}, PACKS[:1], given, ahead)
    assert given.times == {digest(chunk): 1 for chunk in chunks}


def test_a_chunk_larger_than_a_buffer_is_read() -> None:
    storage = MemoryStorage()
    chunks = [bytes([i]) * (READ_BYTES + 4096 * 5) for i in range(3)]
    put(storage, PACKS[0], chunks)
    reads, _ = reader(storage)
    given = Given()
    with reads.begin(PACKS[:1]) as ahead:
        assert not reads.read({digest(chunk) for chunk in chunks}, [], given, ahead)
    assert given.times == {digest(chunk): 1 for chunk in chunks}


def test_no_more_is_begun_than_there_are_buffers(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(readahead, "READ_BYTES", 1000)
    storage = MemoryStorage()
    put(storage, PACKS[0], distinct(100, 900))
    reads, _ = reader(storage)
    with reads.begin(PACKS[:1]) as ahead:
        assert len(ahead) == BUFFERS


@pytest.mark.usefixtures("small_reads")
def test_a_disk_that_fails_ends_the_reading(monkeypatch: pytest.MonkeyPatch) -> None:
    storage = MemoryStorage()
    chunks = distinct(500, 1000)
    put(storage, PACKS[0], chunks)
    reads, _ = reader(storage)
    asked = []

    def failing(key: str, start: int, buffer: npt.NDArray[np.uint8]) -> int:
        asked.append(start)
        raise StorageError("The disk is broken.", do="Replace it.")

    monkeypatch.setattr(storage, "read_into", failing)
    before = threading.active_count()
    with reads.begin(PACKS[:1]) as ahead, pytest.raises(StorageError, match="broken"):
        reads.read({digest(chunk) for chunk in chunks}, [], Given(), ahead)
    assert len(asked) <= 2 * BUFFERS
    assert threading.active_count() == before


def test_what_was_begun_and_not_asked_for_ends_with_the_block() -> None:
    storage = MemoryStorage()
    put(storage, PACKS[0], distinct(100, 1000))
    reads, _ = reader(storage)
    before = threading.active_count()
    with reads.begin(PACKS[:1]):
        pass
    assert threading.active_count() == before


def test_neighbours_are_one_read_up_to_its_size(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(readahead, "READ_BYTES", 3000)
    storage = MemoryStorage()
    chunks = distinct(7, 1000)
    put(storage, PACKS[0], chunks)
    put(storage, PACKS[1], chunks[:1])
    _, index = reader(storage)
    index.load(PACKS[:2])
    copies = [*index.copies_in(PACKS[0])[:5], index.copies_in(PACKS[0])[6], *index.copies_in(PACKS[1])]
    assert [len(stretch) for stretch in coalesce(copies)] == [2, 2, 1, 1, 1]
    assert list(coalesce([])) == []


def test_reading_ahead_can_be_ended_twice() -> None:
    ahead = ReadAhead(MemoryStorage())
    with ahead, ahead:
        assert len(ahead) == 0


@pytest.mark.usefixtures("small_reads")
def test_what_nobody_looks_at_is_over_before_its_memory_serves_another_read() -> None:
    """Else the slow read writes over what is being decoded by then."""
    lock, busy, shared = threading.Lock(), Counter[int](), threading.Event()

    class Slow(MemoryStorage):
        """The first read takes as long as the others will."""

        def read_into(self, key: str, start: int, buffer: npt.NDArray[np.uint8]) -> int:
            address = buffer.ctypes.data
            with lock:
                busy[address] += 1
                if busy[address] > 1:
                    shared.set()
            if start == 0:
                shared.wait(0.5)
            got = super().read_into(key, start, buffer)
            with lock:
                busy[address] -= 1
            return got

    storage = Slow()
    chunks = distinct(200, 1000)
    put(storage, PACKS[0], chunks)
    reads, _ = reader(storage)
    with reads.begin(PACKS[:1]) as ahead:
        assert not reads.read({digest(chunk) for chunk in chunks[150:]}, [], Given(), ahead)
    assert not shared.is_set()
