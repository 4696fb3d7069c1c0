"""The codecs there are, and the one that fits a chunk best: the only place that names them."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, NamedTuple

from holdfast.codecs.base import Base, Codec, sample
from holdfast.codecs.constant import Constant
from holdfast.codecs.delta import Delta, RotatedDelta
from holdfast.codecs.narrowed import KINDS, Narrowed, narrow
from holdfast.codecs.planes import HARD, Planes
from holdfast.codecs.scratch import Scratch
from holdfast.errors import DamagedError

if TYPE_CHECKING:
    import numpy as np
    import numpy.typing as npt

    Bytes = npt.NDArray[np.uint8]

_CONSTANT, _NARROWED, _DELTA, _PLANES = Constant(), Narrowed(), RotatedDelta(), Planes()
_HARD: dict[Codec, Codec] = {_DELTA: RotatedDelta(HARD), _PLANES: Planes(HARD)}
CODECS: dict[str, Codec] = {c.name: c for c in (_CONSTANT, _NARROWED, _DELTA, _PLANES, Delta())}
"""By name; the last is no longer written."""
NARROW = frozenset(KINDS)
"""dtypes of what may be the rounding of float32 numbers."""
PROBES, PROBE_BYTES = 4, 16 * 1024
SAMPLED_BYTES = 2 * PROBES * PROBE_BYTES
"""What is no longer is tried whole."""
LEAST_BASED_BYTES = 4096
"""What is shorter stands alone: to decode another for it takes longer than to read what that saves."""
CLEARLY = 0.98
"""What a delta's size must be of that without a base: a chunk that stands alone is read faster."""
_AGAIN = Scratch()


class Encoded(NamedTuple):
    """An encoding that may take the place of its chunk."""

    codec: str
    data: bytes
    bases: tuple[bytes, ...] = ()


def encode(raw: Bytes, dtype: str, bases: Sequence[Base] = (), *, hard: bool = False) -> Encoded | None:
    """Encode a chunk by the codec that fits, with these bases or without; None where none pays.

    ``hard``: as small as it gets, fifty times slower.

    What it returns has been decoded again and was equal, so it may take the place of the chunk.
    """
    for codec, stored in _encodings(raw, dtype, bases, hard=hard):
        if stored is not None:
            used = bases if codec.named(memoryview(stored)) else ()
            return _checked(codec, stored, raw, used)
    return None


def roundings(wide: Bytes) -> dict[str, bytes]:
    """What copies of these float32 numbers in narrower dtypes are, by dtype."""
    return {dtype: narrow(wide, kind).tobytes() for kind, dtype in enumerate(KINDS)}


def _encodings(
    raw: Bytes, dtype: str, bases: Sequence[Base], *, hard: bool
) -> Iterator[tuple[Codec, bytes | None]]:
    """Made one after the other: the first that pays is taken."""
    yield _CONSTANT, _CONSTANT.encode(raw, dtype, bases)
    yield _NARROWED, _NARROWED.encode(raw, dtype, bases)
    planes, delta = (_HARD[_PLANES], _HARD[_DELTA]) if hard else (_PLANES, _DELTA)
    if not _may_be_nearer(raw, bases):
        yield _PLANES, planes.encode(raw, dtype)
    elif len(raw) > SAMPLED_BYTES:
        probe, near = _probe(raw), Base(bases[0].digest, _probe(bases[0].raw))
        if _is_nearer(_PLANES.encode(probe, dtype), _DELTA.encode(probe, dtype, [near]), len(probe)):
            yield _DELTA, delta.encode(raw, dtype, bases)
        yield _PLANES, planes.encode(raw, dtype)
    else:
        alone, by_base = planes.encode(raw, dtype), delta.encode(raw, dtype, bases)
        yield (_DELTA, by_base) if _is_nearer(alone, by_base, len(raw)) else (_PLANES, alone)


def _may_be_nearer(raw: Bytes, bases: Sequence[Base]) -> bool:
    return len(bases) == 1 and len(bases[0].raw) == len(raw) >= LEAST_BASED_BYTES


def _is_nearer(alone: bytes | None, by_base: bytes | None, raw_bytes: int) -> bool:
    """Whether it is clearly smaller by its base than alone."""
    alone_bytes = len(alone) if alone is not None else raw_bytes
    return by_base is not None and len(by_base) <= CLEARLY * alone_bytes


def _probe(raw: Bytes) -> Bytes:
    return sample(raw, PROBES, PROBE_BYTES)


def _checked(codec: Codec, stored: bytes, raw: Bytes, bases: Sequence[Base]) -> Encoded | None:
    if not _comes_back(codec, stored, raw, bases):
        return None
    return Encoded(codec.name, stored, tuple(base.digest for base in bases))


def _comes_back(codec: Codec, stored: bytes, raw: Bytes, bases: Sequence[Base]) -> bool:
    import numpy as np

    again = _AGAIN.take(len(raw))
    try:
        codec.decode(np.frombuffer(stored, np.uint8), again, [base.raw for base in bases])
    except DamagedError:  # this machine's memory or arithmetic is not to be trusted
        return False
    whole = len(raw) - len(raw) % 8  # words compare faster than bytes
    return np.array_equal(again[:whole].view(np.uint64), raw[:whole].view(np.uint64)) and np.array_equal(
        again[whole:], raw[whole:]
    )
