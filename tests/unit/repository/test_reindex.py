"""Chunks, raw and encoded, are found again in a pack that lost its index."""

from __future__ import annotations

import random

import blake3
import numpy as np
import pytest

from holdfast.codecs import registry
from holdfast.codecs.base import Base
from holdfast.repository.chunks import ChunkReader
from holdfast.repository.index import ChunkIndex
from holdfast.repository.pack import MAGIC, RAW, PackBuilder, PackEntry, read_index
from holdfast.repository.reindex import find_chunks, with_bases, write_pack
from holdfast.storage.memory import MemoryStorage


def weights(count: int, seed: int) -> bytes:
    return (np.random.default_rng(seed).standard_normal(count) * 0.02).astype("<f4").tobytes()


def built(chunks: list[bytes]) -> tuple[bytearray, list[int], list[str]]:
    builder = PackBuilder("0" * 32)
    parts = [MAGIC]
    for chunk in chunks:
        encoded = registry.encode(np.frombuffer(chunk, np.uint8), "float32")
        codec, stored, _ = encoded if encoded is not None else (RAW, chunk, ())
        builder.add(blake3.blake3(chunk).digest(), len(chunk), codec, len(stored))
        parts.append(stored)
    parts += [bytes(part) for part in builder.finish()]
    entries = builder.entries
    return bytearray(b"".join(parts)), [e.offset for e in entries], [e.codec for e in entries]


CHUNKS = [
    weights(4096, 1),
    random.Random(1).randbytes(5000),
    bytes(16384),
    weights(3000, 2),
    weights(4096, 3),
]


def known(chunks: list[bytes]) -> dict[bytes, int]:
    return {blake3.blake3(chunk).digest(): len(chunk) for chunk in chunks}


def test_all_are_found_with_their_codecs() -> None:
    data, offsets, codecs = built(CHUNKS)
    found = find_chunks(memoryview(data), known(CHUNKS))
    assert [f.start for f in found] == offsets
    assert [f.codec for f in found] == codecs
    assert set(codecs) == {"raw", "planes", "constant"}


@pytest.mark.parametrize("lost", range(len(CHUNKS)))
def test_a_damaged_one_is_stepped_over(lost: int) -> None:
    data, offsets, codecs = built(CHUNKS)
    data[offsets[lost] + (8 if codecs[lost] == "constant" else 30)] ^= 1
    found = find_chunks(memoryview(data), known(CHUNKS))
    assert [f.start for f in found] == [at for n, at in enumerate(offsets) if n != lost]


def chain() -> tuple[list[bytes], bytearray, list[PackEntry]]:
    """A chunk, a delta on it, a delta on that; and one that stands alone behind them."""
    random_ = np.random.default_rng(7)
    first = random_.integers(0, 256, 4096, np.uint8)
    chunks = [first.tobytes()]
    for n in range(2):
        first = first.copy()
        first[n * 10 : n * 10 + 5] += 1
        chunks.append(first.tobytes())
    chunks.append(weights(3000, 2))
    builder = PackBuilder("0" * 32, based=True)
    parts = [builder.magic]
    for number, chunk in enumerate(chunks):
        below = chunks[number - 1] if number in (1, 2) else None
        bases = [Base(blake3.blake3(below).digest(), np.frombuffer(below, np.uint8))] if below else []
        encoded = registry.encode(np.frombuffer(chunk, np.uint8), "uint8", bases)
        codec, stored, named = encoded if encoded is not None else (RAW, chunk, ())
        builder.add(blake3.blake3(chunk).digest(), len(chunk), codec, len(stored), named)
        parts.append(stored)
    parts += [bytes(part) for part in builder.finish()]
    return chunks, bytearray(b"".join(parts)), builder.entries


def test_deltas_are_found_with_their_bases() -> None:
    chunks, data, entries = chain()
    assert [e.codec for e in entries[:3]] == ["raw", "rotated-delta", "rotated-delta"]
    found = find_chunks(memoryview(data), known(chunks))
    assert [(f.digest, f.start, b"".join(f.bases)) for f in found] == [
        (e.digest, e.offset, e.bases) for e in entries
    ]


@pytest.mark.parametrize("asked", [[2], [1], [2, 3], [1, 3], [0, 2]])
def test_bases_that_no_checkpoint_names_are_found_for_what_needs_them(asked: list[int]) -> None:
    chunks, data, entries = chain()
    wanted = known([chunks[n] for n in asked])
    found = find_chunks(memoryview(data), wanted)
    kept = with_bases([f for f in found if f.digest in wanted], found)
    needed = set(asked) | set(range(max((n for n in asked if n < 3), default=-1) + 1))
    assert [f.start for f in kept] == [entries[n].offset for n in sorted(needed)]
    storage = MemoryStorage()
    written = read_index(storage, write_pack(storage, memoryview(data), kept))
    index = ChunkIndex(storage)
    index.add(written.pack, written.entries)
    read: dict[bytes, bytes] = {}
    assert ChunkReader(storage, index).read(wanted, [], lambda d, raw: read.update({d: bytes(raw)})) == {}
    assert sorted(read.values()) == sorted(chunks[n] for n in asked)


@pytest.mark.parametrize("lost", range(3))
def test_what_builds_on_a_damaged_one_is_lost_and_the_rest_is_found(lost: int) -> None:
    chunks, data, entries = chain()
    data[entries[lost].offset + 45] ^= 1
    found = find_chunks(memoryview(data), known(chunks))
    assert {f.digest for f in found} == {e.digest for n, e in enumerate(entries) if n < lost or n == 3}


def test_several_that_nothing_needs_are_stepped_over() -> None:
    data, offsets, _ = built(CHUNKS)
    sizes = {bytes([n]) * 32: len(chunk) for n, chunk in enumerate(CHUNKS)}  # of others, as large
    for asked in ([4], [0, 4], [3]):
        found = find_chunks(memoryview(data), sizes | known([CHUNKS[n] for n in asked]))
        assert [f.start for f in found] == [offsets[n] for n in asked]
