"""Half-width floats that are the rounding of a float32 tensor beside them: only whose rounding they are.

Mixed-precision training keeps both; the narrow copy holds nothing of its own.
"""

from __future__ import annotations

import struct
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from holdfast.codecs.base import (
    MOST_BASES,
    SIZES,
    Base,
    declared,
    is_worth,
    not_decodable,
    sealed,
    size_with_bases,
    unsealed,
)
from holdfast.codecs.planes import aligned
from holdfast.domain.tensors import DIGEST_BYTES

if TYPE_CHECKING:
    import numpy as np
    import numpy.typing as npt

    Bytes = npt.NDArray[np.uint8]
    Words = npt.NDArray[Any]

BLOCK = 1 << 14
"""Numbers rounded at a time: what is made on the way stays in the cache."""
KIND = struct.Struct("<B")
KINDS = ("bfloat16", "float16")
BFLOAT16_NAN, FLOAT16_NAN = 0x7FC0, 0x7E00
"""What every NaN is rounded to."""
_INFINITY, _MAGNITUDE = 0x7F800000, 0x7FFFFFFF


class Narrowed:
    """Names one or two float32 chunks, joined, whose rounding the chunk is."""

    name = "narrowed"

    def encode(self, raw: Bytes, dtype: str, bases: Sequence[Base] = ()) -> bytes | None:
        """Encode a chunk whose every bit is that of the rounded bases."""
        stored_bytes = size_with_bases(len(bases), KIND.size)
        if (
            dtype not in KINDS
            or not is_worth(stored_bytes, len(raw))
            or not _fit(raw, [b.raw for b in bases])
        ):
            return None
        kind = KINDS.index(dtype)
        start = 0
        for base in bases:
            stop = start + len(base.raw) // 2
            if not _equal(narrow(base.raw, kind), raw[start:stop]):
                return None
            start = stop
        return sealed(len(raw), [KIND.pack(kind), *(base.digest for base in bases)])

    def decode(self, stored: Bytes, out: Bytes, bases: Sequence[Bytes] = ()) -> None:
        """Round the bases."""
        body = unsealed(stored, out)
        if len(body) < KIND.size or body[0] >= len(KINDS) or not _fit(out, bases):
            raise not_decodable("its bases are of another size")
        start = 0
        for base in bases:
            rounded = narrow(base, body[0])
            out[start : start + len(rounded)] = rounded
            start += len(rounded)

    def named(self, stored: memoryview) -> list[bytes]:
        """Its bases."""
        body = stored[SIZES.size + KIND.size :]
        if declared(stored) is None or len(body) % DIGEST_BYTES or len(body) > MOST_BASES * DIGEST_BYTES:
            return []
        return [bytes(body[at : at + DIGEST_BYTES]) for at in range(0, len(body), DIGEST_BYTES)]


def narrow(wide: Bytes, kind: int) -> Bytes:
    """Float32 rounded to the nearest, ties to even."""
    import numpy as np

    bits = aligned(wide, 4).view("<u4")
    rounded = np.empty(len(bits), "<u2")
    for start in range(0, len(bits), BLOCK):
        rounded[start : start + BLOCK] = _rounded(bits[start : start + BLOCK], KINDS[kind])
    return rounded.view(np.uint8)


def _rounded(bits: Words, kind: str) -> Words:
    is_bfloat16 = kind == "bfloat16"
    rounded = _to_bfloat16(bits) if is_bfloat16 else _to_float16(bits)
    rounded[(bits & _MAGNITUDE) > _INFINITY] = BFLOAT16_NAN if is_bfloat16 else FLOAT16_NAN
    return rounded


def _to_bfloat16(bits: Words) -> Words:
    rounded: Words = (bits + (0x7FFF + (bits >> 16 & 1))) >> 16
    return rounded


def _to_float16(bits: Words) -> Words:
    """In integers, as NumPy's own way takes a hundred times as long where numbers are tiny."""
    import numpy as np

    magnitude = bits & _MAGNITUDE
    normal = (magnitude - (112 << 23) + (0xFFF + (magnitude >> 13 & 1))) >> 13
    with np.errstate(all="ignore"):  # the sum's lowest bits are those of a subnormal number, rounded
        tiny = (magnitude.view("<f4") + np.float32(0.5)).view("<u4") - (126 << 23)
    rounded: Words = np.where(magnitude < 113 << 23, tiny, np.where(magnitude < 143 << 23, normal, 0x7C00))
    rounded |= bits >> 16 & 0x8000
    return rounded


def _fit(raw: Bytes, bases: Sequence[Bytes]) -> bool:
    sizes = [len(base) for base in bases]
    return 0 < len(sizes) <= MOST_BASES and sum(sizes) == 2 * len(raw) and not any(n % 4 for n in sizes)


def _equal(one: Bytes, other: Bytes) -> bool:
    import numpy as np

    return np.array_equal(one, other)
