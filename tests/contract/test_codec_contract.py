"""What every codec must do: exact, bounded, and never silent about what it cannot decode."""

from __future__ import annotations

from contextlib import suppress

import blake3
import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as npst

from holdfast.codecs import registry
from holdfast.codecs.base import MAX_RAW_BYTES, Codec, declared, is_worth
from holdfast.domain.tensors import ITEM_BYTES
from holdfast.errors import DamagedError
from holdfast.repository.chunks import unpacked
from holdfast.repository.index import Copy
from holdfast.repository.pack import PackEntry

Bytes = npt.NDArray[np.uint8]
CODECS = list(registry.CODECS.values())
codecs = pytest.mark.parametrize("codec", CODECS, ids=[c.name for c in CODECS])
dtypes = st.sampled_from(sorted(ITEM_BYTES))

SPECIAL = {
    "float32": [0x7F800000, 0xFF800000, 0x80000000, 0x7FC00001, 0xFFFFFFFF, 0x7F800001, 1],
    "float64": [0x7FF0000000000000, 0x8000000000000000, 0x7FF8000000000123, 0xFFF0000000000001],
    "float16": [0x7C00, 0xFC00, 0x8000, 0x7E01, 0xFFFF, 0x7C01],
    "bfloat16": [0x7F80, 0xFF80, 0x8000, 0x7FC1, 0xFFFF, 0x7F81],
}


def bytes_of(array: npt.NDArray[np.generic]) -> Bytes:
    return np.frombuffer(array.tobytes(), np.uint8)


@st.composite
def chunks(draw: st.DrawFn) -> tuple[Bytes, str]:
    """Noise, constants, numbers, mixtures, of any size, odd tails included."""
    dtype = draw(dtypes)
    size = draw(st.integers(0, 70) | st.integers(0, 40_000) | st.sampled_from([1 << 16, (1 << 20) + 3]))
    random = np.random.default_rng(draw(st.integers(0, 2**32)))
    kind = draw(st.sampled_from(["noise", "zero", "constant", "numbers", "few", "half", "special"]))
    noise = random.integers(0, 256, size, np.uint8)
    if kind == "zero":
        raw = np.zeros(size, np.uint8)
    elif kind == "constant":
        pattern = random.integers(0, 256, ITEM_BYTES[dtype], np.uint8)
        raw = np.resize(pattern, size)
    elif kind == "numbers":
        raw = bytes_of((random.standard_normal(size // 4 + 1) * 0.02).astype("<f4"))[:size].copy()
    elif kind == "few":
        raw = random.integers(0, 3, size, np.uint8)
    elif kind == "half":
        raw = np.where(np.arange(size) < size // 2, 0, noise).astype(np.uint8)
    elif kind == "special" and dtype in SPECIAL:
        width = ITEM_BYTES[dtype]
        values = random.choice(np.array(SPECIAL[dtype], f"<u{width}"), size // width + 1)
        raw = bytes_of(values)[:size].copy()
    else:
        raw = noise
    return raw, dtype


@codecs
@settings(deadline=None)
@given(chunks())
def test_what_it_encodes_comes_back_bit_for_bit(codec: Codec, chunk: tuple[Bytes, str]) -> None:
    raw, dtype = chunk
    before = raw.tobytes()
    stored = codec.encode(raw, dtype)
    assert raw.tobytes() == before
    if stored is None:
        return
    assert is_worth(len(stored), len(raw))
    assert declared(memoryview(stored)) == (len(raw), len(stored))
    out = np.full(len(raw) + 2, 77, np.uint8)
    codec.decode(np.frombuffer(stored, np.uint8), out[1:-1])  # at an odd address, with neighbours
    assert out[1:-1].tobytes() == before
    assert (out[0], out[-1]) == (77, 77)


@settings(deadline=None)
@given(chunks())
def test_the_one_chosen_is_never_larger_than_the_chunk(chunk: tuple[Bytes, str]) -> None:
    raw, dtype = chunk
    encoded = registry.encode(raw, dtype)
    if encoded is not None:
        name, stored, _ = encoded
        assert len(stored) < len(raw)
        found = unpacked(_copy(name, raw, len(stored)), np.frombuffer(stored, np.uint8))
        assert found is not None
        assert found.tobytes() == raw.tobytes()


@settings(deadline=None)
@given(chunks(), st.integers(0, 17))
def test_an_encoder_takes_memory_at_any_address(chunk: tuple[Bytes, str], skew: int) -> None:
    raw, dtype = chunk
    room = np.empty(len(raw) + skew, np.uint8)
    room[skew:] = raw
    assert registry.encode(room[skew:], dtype) == registry.encode(raw, dtype)


@settings(deadline=None)
@given(npst.arrays(st.sampled_from(["<f4", "<f8", "<f2", "<i8", "<u2", "?"]), st.integers(0, 300)))
def test_arrays_of_any_values(array: npt.NDArray[np.generic]) -> None:
    raw = bytes_of(array)
    for codec in CODECS:
        stored = codec.encode(raw, array.dtype.name)
        if stored is not None:
            out = np.empty(len(raw), np.uint8)
            codec.decode(np.frombuffer(stored, np.uint8), out)
            assert out.tobytes() == raw.tobytes()


@codecs
@settings(max_examples=300, deadline=None)
@given(chunks(), st.data())
def test_a_changed_encoding_is_an_error_or_fails_the_digest(
    codec: Codec, chunk: tuple[Bytes, str], data: st.DataObject
) -> None:
    """Cut short, flipped, or of another chunk's size: never a wrong chunk, never an odd exception."""
    raw, dtype = chunk
    stored = codec.encode(raw, dtype)
    if stored is None:
        return
    changed = bytearray(stored)
    if data.draw(st.booleans()):
        del changed[data.draw(st.integers(0, len(changed) - 1)) :]
    for at in data.draw(st.lists(st.integers(0, max(0, len(changed) - 1)), max_size=3)):
        if changed:
            changed[at % min(len(changed), 60)] = data.draw(st.integers(0, 255))
    size = data.draw(st.sampled_from([len(raw), len(raw) + 1, 0, MAX_RAW_BYTES + 1, -1, 1 << 60]))
    entry = PackEntry(blake3.blake3(raw.data).digest(), 8, len(changed), size, codec.name)
    found = unpacked(Copy("0" * 32, entry), np.frombuffer(bytes(changed), np.uint8))
    assert found is None or found.tobytes() == raw.tobytes()


@codecs
@settings(deadline=None)
@given(st.binary(max_size=200), st.integers(0, 300))
def test_any_bytes_decode_or_are_damage(codec: Codec, body: bytes, size: int) -> None:
    out = np.full(size + 2, 77, np.uint8)
    for stored in (body, size.to_bytes(4, "little") + (len(body) + 8).to_bytes(4, "little") + body):
        with suppress(DamagedError):
            codec.decode(np.frombuffer(stored, np.uint8), out[1:-1])
        assert (out[0], out[-1]) == (77, 77)


@codecs
@pytest.mark.parametrize("dtype", sorted(ITEM_BYTES))
def test_every_dtype_and_the_smallest_sizes(codec: Codec, dtype: str) -> None:
    for size in range(40):
        for raw in (np.zeros(size, np.uint8), np.arange(size, dtype=np.uint8)):
            stored = codec.encode(raw, dtype)
            if stored is not None:
                out = np.empty(size, np.uint8)
                codec.decode(np.frombuffer(stored, np.uint8), out)
                assert out.tobytes() == raw.tobytes()


def _copy(name: str, raw: Bytes, stored_bytes: int) -> Copy:
    return Copy("0" * 32, PackEntry(blake3.blake3(raw.data).digest(), 8, stored_bytes, len(raw), name))
