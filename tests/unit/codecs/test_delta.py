from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from holdfast.codecs import registry
from holdfast.codecs.base import Base
from holdfast.codecs.delta import Delta, RotatedDelta
from holdfast.errors import DamagedError

AT_FLAG = 8 + 32 + 1
SHIFTS = {"float32": 1e-6, "float64": 1e-14, "bfloat16": 0.002}


def numbers(dtype: str, shift: float = 0.0, count: int = 1 << 17) -> np.ndarray[Any, Any]:
    random = np.random.default_rng(3)
    values = random.standard_normal(count) * 0.02
    values *= 1 + shift * random.standard_normal(count)
    if dtype == "bfloat16":
        return (values.astype("<f4").view("<u4") >> 16).astype("<u2").view(np.uint8)
    return values.astype(dtype).view(np.uint8)


@pytest.mark.parametrize("dtype", SHIFTS)
def test_small_changes_are_small(dtype: str) -> None:
    raw, near = numbers(dtype), Base(bytes(32), numbers(dtype, SHIFTS[dtype]))
    encoded = registry.encode(raw, dtype, [near])
    alone = registry.encode(raw, dtype)
    assert encoded is not None
    assert alone is not None
    assert (encoded.codec, encoded.bases) == ("rotated-delta", (near.digest,))
    assert len(encoded.data) < 0.8 * len(alone.data)


def test_what_is_hardly_smaller_by_a_base_stands_alone() -> None:
    raw = numbers("float32")
    other = Base(bytes(32), numbers("float32", 0.8))
    forced, alone = Delta().encode(raw, "float32", [other]), registry.encode(raw, "float32")
    assert forced is not None
    assert alone is not None
    assert registry.CLEARLY < len(forced) / len(alone.data) < 1
    assert registry.encode(raw, "float32", [other]) == alone


@pytest.mark.parametrize(("size_bytes", "bases"), [(4092, 0), (4096, 1)])
def test_what_is_short_stands_alone(size_bytes: int, bases: int) -> None:
    raw, near = numbers("float32")[:size_bytes], numbers("float32", 1e-6)[:size_bytes]
    encoded = registry.encode(raw, "float32", [Base(bytes(32), near)])
    assert encoded is not None
    assert len(encoded.bases) == bases


def test_the_neighbour_of_a_float_is_one_away_on_either_side_of_zero() -> None:
    """All differences are one, so of all planes one byte is left."""
    raw = np.tile(np.array([1, 0, 0x80000000, 0x80000001], "<u4"), 500).view(np.uint8)
    base = np.tile(np.array([0, 0x80000000, 0x80000001, 0x80000002], "<u4"), 500).view(np.uint8)
    encoded = Delta().encode(raw, "float32", [Base(bytes(32), base)])
    assert encoded is not None
    assert len(encoded) < 100  # every number is +1


@pytest.mark.parametrize(("spread", "rotation"), [(32, 0), (128, 3)])
def test_planes_are_cut_where_the_differences_fill_them_best(spread: int, rotation: int) -> None:
    random = np.random.default_rng(5)
    base = random.integers(0, 1 << 30, 1 << 16).astype("<i4")
    raw = (base + random.standard_normal(base.size) * spread).astype("<i4").view(np.uint8)
    near = Base(bytes(32), base.view(np.uint8))
    rotated, plain = RotatedDelta().encode(raw, "int32", [near]), Delta().encode(raw, "int32", [near])
    assert rotated is not None
    assert plain is not None
    assert rotated[AT_FLAG] == rotation << 1
    assert len(rotated) < 0.96 * len(plain) if rotation else rotated == plain
    out = np.empty_like(raw)
    RotatedDelta().decode(np.frombuffer(rotated, np.uint8), out, [near.raw])
    assert np.array_equal(out, raw)


@pytest.mark.parametrize(("codec", "flag"), [(Delta(), 2), (Delta(), 3), (RotatedDelta(), 16)])
def test_a_rotation_that_there_is_not_is_damage(codec: Delta, flag: int) -> None:
    raw, near = numbers("float32"), Base(bytes(32), numbers("float32", 1e-6))
    stored = bytearray(codec.encode(raw, "float32", [near]) or b"")
    stored[AT_FLAG] = flag
    with pytest.raises(DamagedError):
        codec.decode(np.frombuffer(stored, np.uint8), np.empty_like(raw), [near.raw])


def test_what_repeats_one_element_needs_no_base() -> None:
    zeros = np.zeros(1 << 16, np.uint8)
    encoded = registry.encode(zeros, "float32", [Base(bytes(32), numbers("float32")[: 1 << 16])])
    assert encoded is not None
    assert (encoded.codec, encoded.bases) == ("constant", ())
