"""Numbers cut into planes of bytes: exponents compress, the noise of mantissas is stored as it is.

The sign of a float is moved to its low end, so that the highest plane is all exponent. What is
left to gain there is in the frequency of its bytes, so zstd is tuned to be little more than a
Huffman coder (docs/design/011-codecs-and-compaction.md).
"""

from __future__ import annotations

import struct
import threading
from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from holdfast.codecs.base import Base, is_worth, not_decodable, sample, sealed, unsealed
from holdfast.codecs.scratch import Scratch
from holdfast.domain.compressed import zstd
from holdfast.domain.tensors import ITEM_BYTES
from holdfast.errors import DamagedError

if TYPE_CHECKING:
    import numpy as np
    import numpy.typing as npt

    Bytes = npt.NDArray[np.uint8]
    Words = npt.NDArray[Any]

HEADER = struct.Struct("<BB")
PLANE = struct.Struct("<BI")
RAW, ZSTD, CONSTANT = range(3)
WIDTHS = (1, 2, 4, 8)
BLOCK_BYTES = 1024 * 1024
"""Split and joined at a time: fits the cache, and long enough for threads not to wait for the interpreter."""
PROBES, PROBE_BYTES = 4, 1024
NOISE = 0.985
"""What a probe must shrink to, or its plane is taken for noise."""
WINDOW_LOG = 17
_LITERALS, _ALWAYS = 1002, 1
"""Of zstd's parameters one that Python has no name for, ``ZSTD_c_literalCompressionMode``: who steps on
faster than by one byte would store literals as they are."""
USUAL: Mapping[int, int] = {
    zstd.CompressionParameter.strategy: zstd.Strategy.fast,
    zstd.CompressionParameter.min_match: 7,
    zstd.CompressionParameter.target_length: 64,
    _LITERALS: _ALWAYS,
    zstd.CompressionParameter.hash_log: 6,
    zstd.CompressionParameter.window_log: WINDOW_LOG,
}
HARD: Mapping[int, int] = {
    zstd.CompressionParameter.compression_level: 19,
    zstd.CompressionParameter.window_log: WINDOW_LOG,
}
"""Fifty times slower to encode, as fast to decode: for what is written once and seldom read."""
NEAR: Mapping[int, int] = {**USUAL, zstd.CompressionParameter.target_length: 8}
"""For differences, in which more repeats than in numbers."""
_PLANES, _MOVED = Scratch(), Scratch()
_BOUNDS: dict[int, int] = {zstd.DecompressionParameter.window_log_max: WINDOW_LOG}


class Planes:
    """Splits elements into planes of bytes and compresses those that are not noise."""

    name = "planes"

    def __init__(self, options: Mapping[int, int] = USUAL) -> None:
        self._options = options

    def encode(self, raw: Bytes, dtype: str, bases: Sequence[Base] = ()) -> bytes | None:
        """Encode a chunk; None where all planes are noise."""
        width, rotated = layout_of(dtype)
        body = packed(raw, width, self._options, flag=rotated, rotation=rotated)
        stored_bytes = 8 + sum(len(part) for part in body)
        return sealed(len(raw), body) if is_worth(stored_bytes, len(raw)) else None

    def decode(self, stored: Bytes, out: Bytes, bases: Sequence[Bytes] = ()) -> None:
        """Decompress the planes, then join them."""
        body = unsealed(stored, out)
        width, rotated = layout_in(body)
        if rotated > (width > 1):
            raise not_decodable("its header is none")
        unpack(body, out, rotation=rotated)

    def named(self, stored: memoryview) -> list[bytes]:
        """None: it stands alone."""
        return []


def layout_of(dtype: str) -> tuple[int, bool]:
    """Bytes of a number, and whether its sign is moved: complex numbers are two floats each."""
    width = ITEM_BYTES[dtype]
    if dtype.startswith("complex"):
        width //= 2
    return width, width > 1 and dtype.startswith(("float", "bfloat", "complex"))


# -- a body: header, planes, odd bytes ----------------------------------------------------------


def packed(
    raw: Bytes, width: int, options: Mapping[int, int], *, flag: int, rotation: int
) -> list[bytes | memoryview]:
    """Header, planes and odd bytes of these numbers, rotated left by so many bits, fewer than eight.

    ``flag`` is the header's second byte.
    """
    count = len(raw) // width
    parts = [_packed(plane, options) for plane in _split(raw[: count * width], width, rotation)]
    heads = [PLANE.pack(kind, len(data)) for kind, data in parts]
    tail = raw[count * width :].tobytes()
    return [HEADER.pack(width, flag), *heads, *(data for _, data in parts), tail]


def layout_in(body: memoryview) -> tuple[int, int]:
    """Bytes of a number and the flag, as a body's header says."""
    if len(body) < HEADER.size:
        raise not_decodable("it is cut short")
    width, flag = HEADER.unpack_from(body)
    if width not in WIDTHS or len(body) < HEADER.size + width * PLANE.size:
        raise not_decodable("its header is none")
    return width, flag


def is_body(body: memoryview, raw_bytes: int) -> bool:
    """Whether these bytes, by their sizes, are a body of so many bytes decoded."""
    try:
        width, _ = layout_in(body)
    except DamagedError:
        return False
    sizes = [PLANE.unpack_from(body, HEADER.size + number * PLANE.size)[1] for number in range(width)]
    return HEADER.size + width * PLANE.size + int(sum(sizes)) + raw_bytes % width == len(body)


def unpack(body: memoryview, out: Bytes, *, rotation: int) -> None:
    """Undo `packed`."""
    width, _ = layout_in(body)
    count = len(out) // width
    at = HEADER.size + width * PLANE.size
    planes = []
    for number in range(width):
        kind, size = PLANE.unpack_from(body, HEADER.size + number * PLANE.size)
        planes.append(_unpacked(kind, body[at : at + size], count))
        at += size
    tail = body[at:]
    if len(tail) != len(out) - count * width:
        raise not_decodable("its planes do not add up")
    _join(planes, out[: count * width], rotation)
    out.data[count * width :] = tail


# -- one plane ---------------------------------------------------------------------------------


def _packed(plane: Bytes, options: Mapping[int, int]) -> tuple[int, bytes | memoryview]:
    if _is_constant(plane):
        return CONSTANT, plane[:1].tobytes()
    if _is_noise(plane):
        return RAW, plane.data
    frame = _compressed(plane.data, options)
    return (ZSTD, frame) if is_worth(len(frame), len(plane)) else (RAW, plane.data)


def _is_constant(plane: Bytes) -> bool:
    return len(plane) > 0 and plane[0] == plane[-1] and bool((plane == plane[0]).all())


def _is_noise(plane: Bytes) -> bool:
    probe = sample(plane, PROBES, PROBE_BYTES)
    return len(probe) < len(plane) and len(_compressed(probe.data, USUAL)) > NOISE * len(probe)


class _Compressors(threading.local):
    """One per thread and setting: making one takes as long as a probe does."""

    def __init__(self) -> None:
        self._made: dict[tuple[tuple[int, int], ...], zstd.ZstdCompressor] = {}

    def take(self, options: Mapping[int, int]) -> zstd.ZstdCompressor:
        """One that is at the start of a frame, until `keep` gives it back."""
        return self._made.pop(tuple(options.items()), None) or zstd.ZstdCompressor(options=options)

    def keep(self, options: Mapping[int, int], compressor: zstd.ZstdCompressor) -> None:
        self._made[tuple(options.items())] = compressor


_COMPRESSORS = _Compressors()


def _compressed(data: memoryview, options: Mapping[int, int]) -> bytes:
    """One frame, which says how long it is decoded."""
    compressor = _COMPRESSORS.take(options)
    compressor.set_pledged_input_size(len(data))
    frame = compressor.compress(data, compressor.FLUSH_FRAME)
    _COMPRESSORS.keep(options, compressor)
    return frame


def _unpacked(kind: int, data: memoryview, count: int) -> Bytes:
    import numpy as np

    if kind == CONSTANT and len(data) == 1:
        return np.broadcast_to(np.frombuffer(data, np.uint8), count)
    plane = _decompressed(data, count) if kind == ZSTD else data
    if kind not in (RAW, ZSTD) or len(plane) != count:
        raise not_decodable("a plane has another size")
    return np.frombuffer(plane, np.uint8)


def _decompressed(frame: memoryview, count: int) -> bytes:
    """At most so many bytes, whatever the frame declares."""
    try:
        return zstd.ZstdDecompressor(options=_BOUNDS).decompress(frame, max_length=count)
    except zstd.ZstdError as error:
        raise not_decodable(str(error)) from error


# -- all planes --------------------------------------------------------------------------------


def _split(raw: Bytes, width: int, rotation: int) -> list[Bytes]:
    """Planes of bytes, the lowest first; valid until the thread splits again."""
    import numpy as np

    if width == 1:
        return [np.ascontiguousarray(raw)]
    words = aligned(raw, width).view(f"<u{width}")
    planes = list(_PLANES.take(len(raw)).reshape(width, len(words)))
    for start, stop, moved in blocks(len(words), words.dtype):
        block = words[start:stop]
        for number, plane in enumerate(planes):
            if number == 0 and rotation:
                _rotate_lowest(block, moved, plane[start:stop], planes[1][start:stop], rotation)
            else:
                np.right_shift(block, 8 * number - rotation, out=moved)
                np.copyto(plane[start:stop], moved, casting="unsafe")
    return planes


def _rotate_lowest(block: Words, moved: Words, plane: Bytes, spare: Bytes, rotation: int) -> None:
    """The lowest byte of each word, shifted, with the word's highest bits."""
    import numpy as np

    if rotation == 1:  # the sign, in one pass instead of two
        np.less(block.view(f"<i{block.itemsize}"), 0, out=spare.view(bool))
    else:
        np.right_shift(block, 8 * block.itemsize - rotation, out=moved)
        np.copyto(spare, moved, casting="unsafe")
    np.copyto(plane, block, casting="unsafe")
    for _ in range(rotation):
        np.add(plane, plane, out=plane)  # shifting bytes is not vectorised
    np.bitwise_or(plane, spare, out=plane)


def _join(planes: list[Bytes], out: Bytes, rotation: int) -> None:
    import numpy as np

    width = len(planes)
    if width == 1:
        np.copyto(out, planes[0])
        return
    joined = aligned(out, width).view(f"<u{width}")
    for start, stop, moved in blocks(len(joined), joined.dtype):
        block = joined[start:stop]
        np.copyto(block, planes[-1][start:stop])
        for plane in reversed(planes[:-1]):
            np.copyto(moved, plane[start:stop])
            np.left_shift(block, 8, out=block)
            np.bitwise_or(block, moved, out=block)
        if rotation:
            np.left_shift(block, 8 * width - rotation, out=moved)
            np.right_shift(block, rotation, out=block)
            np.bitwise_or(block, moved, out=block)
    if not np.may_share_memory(joined, out):
        np.copyto(out, joined.view(np.uint8))


def blocks(count: int, dtype: np.dtype[Any]) -> Iterator[tuple[int, int, Words]]:
    """Stretches of so many words that fit a core's cache, each with room for as many."""
    step = BLOCK_BYTES // dtype.itemsize
    for start in range(0, count, step):
        stop = min(start + step, count)
        yield start, stop, _MOVED.take((stop - start) * dtype.itemsize).view(dtype)


def aligned(data: Bytes, width: int) -> Bytes:
    """The bytes, or a copy of them where vector instructions could not work on words of this width."""
    return data if data.ctypes.data % width == 0 and data.flags.c_contiguous else data.copy()
