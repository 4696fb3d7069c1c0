"""What every codec must do: exact, bounded, and never silent about what it cannot decode."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import suppress

import blake3
import msgspec
import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as npst

from holdfast.codecs import registry
from holdfast.codecs.base import MAX_RAW_BYTES, MOST_BASES, Base, Codec, declared, is_worth
from holdfast.codecs.delta import Delta
from holdfast.codecs.narrowed import KINDS, narrow
from holdfast.codecs.planes import HARD, Planes
from holdfast.domain.tensors import ITEM_BYTES
from holdfast.errors import DamagedError
from holdfast.repository.chunks import unpacked
from holdfast.repository.index import Copy
from holdfast.repository.pack import PackEntry

Bytes = npt.NDArray[np.uint8]
CODECS: list[Codec] = [*registry.CODECS.values(), Planes(HARD), Delta(HARD)]
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


@st.composite
def cases(draw: st.DrawFn, codec: Codec) -> tuple[Bytes, str, list[Base]]:
    """A chunk for this codec, and bases by which it can be encoded: or nearly, or not at all."""
    if codec.name == "narrowed" and draw(st.booleans()):
        return draw(narrow_cases())
    raw, dtype = draw(chunks())
    return raw, dtype, [base_of(near) for near in draw(nears(raw))] if codec.name in BASED else []


BASED = ("delta", "rotated-delta", "narrowed")


def base_of(raw: Bytes) -> Base:
    return Base(blake3.blake3(raw.data).digest(), raw)


@st.composite
def nears(draw: st.DrawFn, raw: Bytes) -> list[Bytes]:
    """What a base may be beside the chunk: the same, changed a little or much, of another size, several."""
    random = np.random.default_rng(draw(st.integers(0, 2**32)))
    kind = draw(st.sampled_from(["same", "few", "near", "noise", "longer", "none", "two"]))
    near = raw.copy()
    if kind == "few" and len(raw):
        near[random.integers(0, len(raw), 5)] ^= 1
    elif kind == "near":
        near += random.integers(0, 3, len(raw)).astype(np.uint8)
    elif kind == "noise":
        near = random.integers(0, 256, len(raw), np.uint8)
    elif kind == "longer":
        near = np.concatenate([raw, raw[:1]])
    return [] if kind == "none" else [near, near.copy()] if kind == "two" else [near]


@st.composite
def narrow_cases(draw: st.DrawFn) -> tuple[Bytes, str, list[Base]]:
    """Float32 chunks of any bits, and what they are rounded to."""
    random = np.random.default_rng(draw(st.integers(0, 2**32)))
    special = np.array(SPECIAL["float32"], "<u4")
    bases = []
    for count in draw(st.lists(st.integers(0, 5000).map(lambda n: 2 * n), min_size=1, max_size=MOST_BASES)):
        values = (random.standard_normal(count) * draw(st.sampled_from([1e-40, 1e-6, 1.0, 7e4]))).astype(
            "<f4"
        )
        bits = values.view("<u4").copy()
        bits[:8] = random.choice(special, len(bits[:8])) if draw(st.booleans()) else bits[:8]
        bases.append(base_of(bits.view(np.uint8)))
    kind = draw(st.integers(0, len(KINDS) - 1))
    raw = np.concatenate([narrow(base.raw, kind) for base in bases])
    if len(raw) and draw(st.booleans()):
        raw[draw(st.integers(0, len(raw) - 1))] ^= draw(st.integers(0, 1))
    return raw, KINDS[kind], bases


def raws(bases: Sequence[Base]) -> list[Bytes]:
    return [base.raw for base in bases]


@codecs
@given(data=st.data())
def test_what_it_encodes_comes_back_bit_for_bit(codec: Codec, data: st.DataObject) -> None:
    raw, dtype, bases = data.draw(cases(codec))
    before, bases_before = raw.tobytes(), [base.raw.tobytes() for base in bases]
    stored = codec.encode(raw, dtype, bases)
    assert (raw.tobytes(), [base.raw.tobytes() for base in bases]) == (before, bases_before)
    if stored is None:
        return
    assert is_worth(len(stored), len(raw))
    assert declared(memoryview(stored)) == (len(raw), len(stored))
    assert codec.named(memoryview(stored)) == ([b.digest for b in bases] if codec.name in BASED else [])
    out = np.full(len(raw) + 2, 77, np.uint8)
    codec.decode(
        np.frombuffer(stored, np.uint8), out[1:-1], raws(bases)
    )  # at an odd address, with neighbours
    assert out[1:-1].tobytes() == before
    assert (out[0], out[-1]) == (77, 77)
    assert [base.raw.tobytes() for base in bases] == bases_before


@given(st.sampled_from(CODECS), st.data())
def test_the_one_chosen_is_never_larger_than_the_chunk(like: Codec, data: st.DataObject) -> None:
    raw, dtype, bases = data.draw(cases(like))
    encoded = registry.encode(raw, dtype, bases)
    if encoded is not None:
        name, stored, named = encoded
        assert len(stored) < len(raw)
        assert named in ((), tuple(base.digest for base in bases))
        assert bool(named) == (name in BASED)
        entry = _entry(name, raw, len(stored), named)
        found = unpacked(Copy("0" * 32, entry), np.frombuffer(stored, np.uint8), raws(bases) if named else ())
        assert found is not None
        assert found.tobytes() == raw.tobytes()


@given(st.sampled_from(CODECS), st.integers(0, 17), st.integers(0, 17), st.data())
def test_an_encoder_takes_memory_at_any_address(
    like: Codec, skew: int, other: int, data: st.DataObject
) -> None:
    raw, dtype, bases = data.draw(cases(like))

    def moved(chunk: Bytes, by: int) -> Bytes:
        room = np.empty(len(chunk) + by, np.uint8)
        room[by:] = chunk
        return room[by:]

    elsewhere = [Base(base.digest, moved(base.raw, other)) for base in bases]
    assert registry.encode(moved(raw, skew), dtype, elsewhere) == registry.encode(raw, dtype, bases)


FLOATS = st.sampled_from(["<f4", "<f8", "<f2", "<i8", "<u2", "?"])


@given(npst.arrays(FLOATS, st.integers(0, 300)), st.data())
def test_arrays_of_any_values(array: npt.NDArray[np.generic], data: st.DataObject) -> None:
    raw = bytes_of(array)
    other = data.draw(npst.arrays(array.dtype, array.shape))
    for codec in CODECS:
        bases = [base_of(bytes_of(other))] if codec.name.endswith("delta") else []
        stored = codec.encode(raw, array.dtype.name, bases)
        if stored is not None:
            out = np.empty(len(raw), np.uint8)
            codec.decode(np.frombuffer(stored, np.uint8), out, raws(bases))
            assert out.tobytes() == raw.tobytes()


@codecs
@settings(max_examples=150)
@given(data=st.data())
def test_a_changed_encoding_is_an_error_or_fails_the_digest(codec: Codec, data: st.DataObject) -> None:
    """Cut short, flipped, of another chunk's size or bases: never a wrong chunk, never an odd exception."""
    raw, dtype, bases = data.draw(cases(codec))
    stored = codec.encode(raw, dtype, bases)
    if stored is None:
        return
    changed = bytearray(stored)
    if data.draw(st.booleans()):
        del changed[data.draw(st.integers(0, len(changed) - 1)) :]
    for at in data.draw(st.lists(st.integers(0, max(0, len(changed) - 1)), max_size=3)):
        if changed:
            changed[at % min(len(changed), 90)] = data.draw(st.integers(0, 255))
    size = data.draw(st.sampled_from([len(raw), len(raw) + 1, 0, MAX_RAW_BYTES + 1, -1, 1 << 60]))
    given = raws(bases) if data.draw(st.booleans()) else data.draw(nears(raw))
    named = codec.named(memoryview(bytes(changed)))  # as if the index had been forged, too
    entry = _entry(codec.name, raw, len(changed), named)
    entry = msgspec.structs.replace(entry, raw_bytes=size)
    found = unpacked(Copy("0" * 32, entry), np.frombuffer(bytes(changed), np.uint8), given)
    assert found is None or found.tobytes() == raw.tobytes()


@codecs
@given(st.binary(max_size=200), st.integers(0, 300), st.lists(st.binary(max_size=600), max_size=3))
def test_any_bytes_decode_or_are_damage(codec: Codec, body: bytes, size: int, bases: list[bytes]) -> None:
    out = np.full(size + 2, 77, np.uint8)
    below = [np.frombuffer(base, np.uint8) for base in bases]
    fitting = np.resize(np.frombuffer(body or b"x", np.uint8), size)
    for stored in (body, size.to_bytes(4, "little") + (len(body) + 8).to_bytes(4, "little") + body):
        for given_bases in (below, [fitting], [fitting, fitting]):
            with suppress(DamagedError):
                codec.decode(np.frombuffer(stored, np.uint8), out[1:-1], given_bases)
            assert (out[0], out[-1]) == (77, 77)
        assert all(len(digest) <= 32 for digest in codec.named(memoryview(stored)))


@codecs
@pytest.mark.parametrize("dtype", sorted(ITEM_BYTES))
def test_every_dtype_and_the_smallest_sizes(codec: Codec, dtype: str) -> None:
    for size in [*range(40), 100, 201]:
        for raw in (np.zeros(size, np.uint8), np.arange(size, dtype=np.uint8)):
            bases = [base_of(raw[::-1].copy())] if codec.name in BASED else []
            stored = codec.encode(raw, dtype, bases)
            if stored is not None:
                out = np.empty(size, np.uint8)
                codec.decode(np.frombuffer(stored, np.uint8), out, raws(bases))
                assert out.tobytes() == raw.tobytes()


@pytest.mark.parametrize("kind", range(len(KINDS)))
def test_rounding_is_that_of_the_frameworks(kind: int) -> None:
    torch = pytest.importorskip("torch")
    random = np.random.default_rng(1)
    ties = np.arange(1 << 16, dtype="<u4") << 16
    bits = np.concatenate([random.integers(0, 2**32, 1 << 18, "<u4"), ties, ties | 0x8000, ties | 0x7FFF])
    bits = bits[~np.isnan(bits.view("<f4"))]
    theirs = (
        torch.from_numpy(bits.view("<f4").copy()).to(getattr(torch, KINDS[kind])).view(torch.int16).numpy()
    )
    assert np.array_equal(narrow(bits.view(np.uint8), kind).view("<i2"), theirs)


def test_a_wrong_base_is_noticed_by_the_digest() -> None:
    random = np.random.default_rng(5)
    raw = random.integers(0, 256, 4096, np.uint8)
    right, wrong = raw.copy(), raw.copy()
    right[7] ^= 1
    wrong[8] ^= 1
    encoded = registry.encode(raw, "uint8", [base_of(right)])
    assert encoded is not None
    entry = _entry(encoded.codec, raw, len(encoded.data), encoded.bases)
    copy, stored = Copy("0" * 32, entry), np.frombuffer(encoded.data, np.uint8)
    assert unpacked(copy, stored, [wrong]) is None
    assert unpacked(copy, stored, [right[:-1]]) is None
    assert unpacked(copy, stored, []) is None
    assert unpacked(copy, stored, [right]) is not None
    other = msgspec.structs.replace(entry, bases=bytes(32))
    assert unpacked(Copy("0" * 32, other), stored, [right]) is None  # the index names another than it does


def _entry(name: str, raw: Bytes, stored_bytes: int, named: Sequence[bytes]) -> PackEntry:
    digest = blake3.blake3(raw.data).digest()
    return PackEntry(digest, 8, stored_bytes, len(raw), name, b"".join(named))
