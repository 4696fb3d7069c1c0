"""The contract of every codec: exact, bounded, and recognisable without an index.

An encoding begins with the sizes of what it decodes to and of itself, and names the chunks that it
builds on (its bases), so that the chunks of a pack whose index is lost can be found again.
"""

from __future__ import annotations

import struct
from collections.abc import Sequence
from typing import TYPE_CHECKING, NamedTuple, Protocol

from holdfast.domain.tensors import DIGEST_BYTES
from holdfast.errors import DamagedError

if TYPE_CHECKING:
    import numpy as np
    import numpy.typing as npt

    Bytes = npt.NDArray[np.uint8]

SIZES = struct.Struct("<II")
MAX_RAW_BYTES = 64 * 1024 * 1024
"""No chunk is larger, so nothing that is read may claim to be."""
LEAST_GAIN = 1 / 64
"""An encoding that saves less than this share is not worth decoding."""


MOST_BASES = 2


class Base(NamedTuple):
    """A chunk that another one is encoded by."""

    digest: bytes
    raw: Bytes


class Codec(Protocol):
    """One way to encode chunks; holds no state, so that threads may share it."""

    @property
    def name(self) -> str:
        """What a pack's index calls it."""
        ...

    def encode(self, raw: Bytes, dtype: str, bases: Sequence[Base] = ()) -> bytes | None:
        """Encode a chunk of a tensor of this dtype; None where that is not worth it.

        Parameters
        ----------
        bases : sequence of Base
            What it may build on. Who stands alone ignores them; who does not uses all of them.
        """
        ...

    def decode(self, stored: Bytes, out: Bytes, bases: Sequence[Bytes] = ()) -> None:
        """Fill ``out`` exactly; neither writes nor allocates more than a small multiple of its size.

        Raises
        ------
        DamagedError
            This is no encoding of so many bytes by such bases; ``out`` may have been written to.
        """
        ...

    def named(self, stored: memoryview) -> list[bytes]:
        """Digests of the bases that an encoding names; not to be trusted."""
        ...


def sample(raw: Bytes, pieces: int, piece_bytes: int) -> Bytes:
    """So many pieces of it, from its beginning to its end; all of it where that is little more."""
    import numpy as np

    if len(raw) <= 2 * pieces * piece_bytes:
        return raw
    step = (len(raw) - piece_bytes) // (pieces - 1) // 16 * 16  # whole numbers
    return np.concatenate([raw[n * step : n * step + piece_bytes] for n in range(pieces)])


def is_worth(stored_bytes: int, raw_bytes: int) -> bool:
    """Whether an encoding of this size pays."""
    return stored_bytes <= raw_bytes - raw_bytes * LEAST_GAIN


def size_with_bases(bases: int, body_bytes: int) -> int:
    """What an encoding costs: its bases stand in it, and once more in the pack's index."""
    return SIZES.size + 2 * DIGEST_BYTES * bases + body_bytes


def sealed(raw_bytes: int, body: list[bytes | memoryview]) -> bytes:
    """An encoding with its sizes in front."""
    stored_bytes = SIZES.size + sum(len(part) for part in body)
    return b"".join([SIZES.pack(raw_bytes, stored_bytes), *body])


def unsealed(stored: Bytes, out: Bytes) -> memoryview:
    """The body of an encoding whose sizes are as they must be."""
    if declared(stored.data) != (len(out), len(stored)):
        raise not_decodable("its sizes are not its own")
    return stored.data[SIZES.size :]


def declared(stored: memoryview) -> tuple[int, int] | None:
    """The sizes, decoded and encoded, that an encoding claims to have; not to be trusted."""
    return SIZES.unpack_from(stored) if len(stored) >= SIZES.size else None


def not_decodable(why: str) -> DamagedError:
    return DamagedError(f"An encoded chunk cannot be decoded: {why}.", do="Run 'holdfast verify'.")
