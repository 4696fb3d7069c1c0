"""Chunks, raw and encoded, are found again in a pack that lost its index."""

from __future__ import annotations

import random

import blake3
import numpy as np
import pytest

from holdfast.codecs import registry
from holdfast.repository.pack import MAGIC, RAW, PackBuilder
from holdfast.repository.reindex import find_chunks


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
