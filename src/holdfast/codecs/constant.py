"""A chunk that repeats one short pattern, such as the zeros of a fresh optimizer: only the pattern."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from holdfast.codecs.base import Base, is_worth, not_decodable, sealed, unsealed

if TYPE_CHECKING:
    import numpy as np
    import numpy.typing as npt

    Bytes = npt.NDArray[np.uint8]

PATTERNS = (1, 2, 4, 8, 16)
"""Sizes of the elements of all dtypes."""


class Constant:
    """Stores the repeated element once."""

    name = "constant"

    def encode(self, raw: Bytes, dtype: str, bases: Sequence[Base] = ()) -> bytes | None:
        """Encode a chunk all of whose elements are equal, bit for bit."""
        head = raw[:256].tobytes()
        size = next((n for n in PATTERNS if len(head) > n and head[n:] == head[:-n]), None)
        if size is None or not is_worth(size + 8, len(raw)) or not _repeats(raw, size):
            return None
        return sealed(len(raw), [raw[:size].tobytes()])

    def decode(self, stored: Bytes, out: Bytes, bases: Sequence[Bytes] = ()) -> None:
        """Fill ``out`` with the pattern."""
        import numpy as np

        pattern = np.frombuffer(unsealed(stored, out), np.uint8)
        size = len(pattern)
        if size not in PATTERNS or size > len(out):
            raise not_decodable(f"a pattern has no {size} bytes")
        whole = len(out) - len(out) % size
        out[:whole].reshape(-1, size)[:] = pattern
        out[whole:] = pattern[: len(out) - whole]

    def named(self, stored: memoryview) -> list[bytes]:
        """None: it stands alone."""
        return []


def _repeats(raw: Bytes, size: int) -> bool:
    import numpy as np

    return np.array_equal(raw[size:], raw[:-size])
