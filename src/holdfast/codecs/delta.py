"""Numbers by how far they are from those of another chunk: what training changed in a few steps.

A float is first mapped to an integer that grows with it, so that neighbours differ by one. Small
differences of either sign become small numbers, whose upper planes are zeros
(docs/design/012-delta-and-derived-chunks.md).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from holdfast.codecs.base import (
    SIZES,
    Base,
    declared,
    is_worth,
    not_decodable,
    sample,
    sealed,
    unsealed,
)
from holdfast.codecs.planes import NEAR, aligned, blocks, is_body, layout_in, layout_of, packed, unpack
from holdfast.codecs.scratch import Scratch
from holdfast.domain.tensors import DIGEST_BYTES

if TYPE_CHECKING:
    import numpy as np
    import numpy.typing as npt

    Bytes = npt.NDArray[np.uint8]
    Words = npt.NDArray[Any]

PROBES, PROBE_BYTES = 4, 4 * 1024
_DIFFERENCES, _ORDERED = Scratch(), Scratch()


class Delta:
    """Stores differences to one base of the same size, in planes."""

    name = "delta"
    rotations: Sequence[int] = (0,)

    def __init__(self, options: Mapping[int, int] = NEAR) -> None:
        self._options = options

    def encode(self, raw: Bytes, dtype: str, bases: Sequence[Base] = ()) -> bytes | None:
        """Encode a chunk by its one base; None without, or where that saves nothing."""
        if len(bases) != 1 or len(bases[0].raw) != len(raw):
            return None
        width, floats = layout_of(dtype)
        differences = _differences(raw, bases[0].raw, width, floats)
        made = [
            self._sealed(differences, width, floats, rotation, bases[0].digest)
            for rotation in self._rotations(differences, width)
        ]
        stored = min(made, key=len)
        return stored if is_worth(len(stored) + DIGEST_BYTES, len(raw)) else None

    def _sealed(self, differences: Bytes, width: int, floats: bool, rotation: int, base: bytes) -> bytes:
        body = packed(differences, width, self._options, flag=floats | rotation << 1, rotation=rotation)
        return sealed(len(differences), [base, *body])

    def decode(self, stored: Bytes, out: Bytes, bases: Sequence[Bytes] = ()) -> None:
        """Decompress the differences, then add them to the base."""
        body = unsealed(stored, out)[DIGEST_BYTES:]
        if len(bases) != 1 or len(bases[0]) != len(out):
            raise not_decodable("its base is of another size")
        width, flag = layout_in(body)
        floats, rotation = flag & 1, flag >> 1
        if rotation > max(self.rotations) or (flag and width == 1):
            raise not_decodable("its header is none")
        unpack(body, out, rotation=rotation)
        _add(bases[0], out, width, bool(floats))

    def named(self, stored: memoryview) -> list[bytes]:
        """Its base; none where the rest is no delta."""
        start = SIZES.size + DIGEST_BYTES
        sizes = declared(stored)
        if sizes is None or not is_body(stored[start:], sizes[0]):
            return []
        return [bytes(stored[SIZES.size : start])]

    def _rotations(self, differences: Bytes, width: int) -> Sequence[int]:
        """Those to try: all of them, or for long chunks the one by which a sample gets smallest."""
        if width == 1:
            return (0,)
        probe = sample(differences, PROBES, PROBE_BYTES)
        if len(self.rotations) == 1 or len(probe) == len(differences):
            return self.rotations

        def packed_bytes(rotation: int) -> int:
            body = packed(probe, width, NEAR, flag=0, rotation=rotation)
            return sum(len(part) for part in body)

        return (min(self.rotations, key=packed_bytes),)


class RotatedDelta(Delta):
    """Cuts the planes where the differences of this chunk fill them best."""

    name = "rotated-delta"
    rotations = (0, 3, 6)


def _differences(raw: Bytes, base: Bytes, width: int, floats: bool) -> Bytes:
    """Of each number, zigzag: 0, -1, 1, -2 ... as 0, 1, 2, 3; valid until the thread asks again."""
    import numpy as np

    result = _DIFFERENCES.take(len(raw))
    whole = len(raw) - len(raw) % width
    numbers, from_numbers = (aligned(part[:whole], width).view(f"<i{width}") for part in (raw, base))
    differences = result[:whole].view(f"<i{width}")
    for start, stop, moved in blocks(len(numbers), numbers.dtype):
        block = differences[start:stop]
        spare = _ORDERED.take(block.nbytes).view(block.dtype)
        np.subtract(
            _ordered(numbers[start:stop], floats, moved),
            _ordered(from_numbers[start:stop], floats, spare),
            out=block,
        )
        np.right_shift(block, 8 * width - 1, out=moved)
        np.left_shift(block, 1, out=block)
        np.bitwise_xor(block, moved, out=block)
    np.copyto(result[whole:], raw[whole:])
    return result


def _add(base: Bytes, out: Bytes, width: int, floats: bool) -> None:
    """Put numbers in the place of their differences."""
    import numpy as np

    whole = len(out) - len(out) % width
    from_numbers = aligned(base[:whole], width).view(f"<i{width}")
    joined = aligned(out[:whole], width)
    numbers = joined.view(f"<i{width}")
    for start, stop, moved in blocks(len(numbers), numbers.dtype):
        block = numbers[start:stop]
        np.bitwise_and(block, 1, out=moved)
        np.negative(moved, out=moved)
        np.right_shift(block.view(f"<u{width}"), 1, out=block.view(f"<u{width}"))
        np.bitwise_xor(block, moved, out=block)
        np.add(block, _ordered(from_numbers[start:stop], floats, moved), out=block)
        _ordered(block, floats, moved, out=block)
    if not np.may_share_memory(joined, out):
        np.copyto(out[:whole], joined)


def _ordered(numbers: Words, floats: bool, moved: Words, out: Words | None = None) -> Words:
    """Integers that grow with the floats that these bits are; done twice it undoes itself.

    They are where they were, or in ``moved`` or ``out``.
    """
    import numpy as np

    if not floats:
        return numbers
    bits = 8 * numbers.itemsize
    np.right_shift(numbers, bits - 1, out=moved)
    np.bitwise_and(moved, (1 << (bits - 1)) - 1, out=moved)
    return np.bitwise_xor(numbers, moved, out=moved if out is None else out)
