"""The codecs there are, and the one that fits a chunk best: the only place that names them."""

from __future__ import annotations

from typing import TYPE_CHECKING

from holdfast.codecs.base import Codec
from holdfast.codecs.constant import Constant
from holdfast.codecs.planes import Planes
from holdfast.codecs.scratch import Scratch
from holdfast.errors import DamagedError

if TYPE_CHECKING:
    import numpy as np
    import numpy.typing as npt

    Bytes = npt.NDArray[np.uint8]

_TRIED: tuple[Codec, ...] = (Constant(), Planes())
"""In this order: the first that pays is taken."""
CODECS: dict[str, Codec] = {codec.name: codec for codec in _TRIED}


_AGAIN = Scratch()


def encode(raw: Bytes, dtype: str) -> tuple[str, bytes] | None:
    """Encode a chunk by the codec that fits; None where none pays.

    What it returns has been decoded again and was equal, so it may take the place of the chunk.
    """
    for codec in _TRIED:
        stored = codec.encode(raw, dtype)
        if stored is not None:
            return (codec.name, stored) if _comes_back(codec, stored, raw) else None
    return None


def _comes_back(codec: Codec, stored: bytes, raw: Bytes) -> bool:
    import numpy as np

    again = _AGAIN.take(len(raw))
    try:
        codec.decode(np.frombuffer(stored, np.uint8), again)
    except DamagedError:  # this machine's memory or arithmetic is not to be trusted
        return False
    whole = len(raw) - len(raw) % 8  # words compare faster than bytes
    return np.array_equal(again[:whole].view(np.uint64), raw[:whole].view(np.uint64)) and np.array_equal(
        again[whole:], raw[whole:]
    )
