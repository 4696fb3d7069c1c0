"""What follows the summary of a manifest: details, table of tensors, digests (docs/format.md).

Version 1 has details and table as they are, digests within the table. In version 2 both are compressed,
as the names of tensors stand in both, and the digests, which nothing makes smaller, stand behind them: what
marks a repository reads nothing else. Version 3 is version 2 with what other ranks have of their own.
Whatever is no such thing raises ValueError.
"""

from __future__ import annotations

from math import prod
from typing import NamedTuple, TypeVar

import msgspec

from holdfast.domain.compressed import compress, decompress
from holdfast.domain.manifest import (
    Details,
    RankDetails,
    Shard,
    TensorEntry,
    joined_digests,
    split_digests,
)
from holdfast.domain.tensors import DIGEST_BYTES, ITEM_BYTES

T = TypeVar("T")
Region = tuple[tuple[int, ...], tuple[int, ...]]
"""Offsets and sizes."""
_Span = tuple[tuple[int, ...], tuple[int, ...], int]
"""Offsets, sizes, bytes of the digests."""

MAX_BODY_BYTES = 1 << 30
MOST_RATIO = 16
"""Decoded bytes for each byte of the file: a manifest of many tensors has 4, a bomb has thousands."""
FREE_BYTES = 1 << 20
"""So many are decoded whatever the file's size."""
MOST_DIMENSIONS = 64


class Body(NamedTuple):
    """Details and table, and details of further ranks."""

    details: Details
    chunk_bytes: int
    tensors: dict[str, TensorEntry]
    ranks: tuple[RankDetails, ...] = ()


class Stored(NamedTuple):
    """A body of version 2 or 3 as it stands in a file, and the size of its first part decoded."""

    packed: bytes
    raw_bytes: int
    digests: bytes


class _Described(msgspec.Struct, frozen=True, gc=False, array_like=True, forbid_unknown_fields=True):
    """A tensor without its digests; ``regions`` are those of its shards, where it is divided."""

    dtype: str
    shape: tuple[int, ...]
    regions: tuple[Region, ...] | None = None


class _Packed(msgspec.Struct, frozen=True, array_like=True, forbid_unknown_fields=True):
    details: Details
    chunk_bytes: int
    tensors: dict[str, _Described]
    ranks: tuple[RankDetails, ...] = ()


class _Table(msgspec.Struct, frozen=True, array_like=True, forbid_unknown_fields=True):
    chunk_bytes: int
    tensors: dict[str, TensorEntry]


# -- versions 2 and 3 ----------------------------------------------------------------------


def encode(body: Body) -> Stored:
    """Compress all but the digests."""
    described = {name: _described(entry) for name, entry in body.tensors.items()}
    ranks = (body.ranks,) if body.ranks else ()
    raw = msgspec.msgpack.encode((body.details, body.chunk_bytes, described, *ranks))
    digests = joined_digests(body.tensors)
    packed = compress(raw)
    small = len(raw) <= _most_bytes(len(packed) + len(digests))
    return Stored(packed if small else raw, len(raw), digests)


def decode(stored: Stored) -> Body:
    """Undo `encode`."""
    if stored.raw_bytes > max(len(stored.packed), _most_bytes(len(stored.packed) + len(stored.digests))):
        raise ValueError("it claims to become too large")
    packed = _decode(decompress(stored.packed, stored.raw_bytes), _Packed)
    _check_chunk_bytes(packed.chunk_bytes)
    tensors = _joined(packed.tensors, stored.digests, packed.chunk_bytes)
    return Body(packed.details, packed.chunk_bytes, tensors, packed.ranks)


def needs(stored: Stored) -> set[bytes]:
    """Digests of all chunks; the rest is not even decompressed."""
    if len(stored.digests) % DIGEST_BYTES:
        raise ValueError("a digest is cut short")
    return set(split_digests(stored.digests))


def _most_bytes(file_bytes: int) -> int:
    return min(MAX_BODY_BYTES, max(FREE_BYTES, MOST_RATIO * file_bytes))


def _described(entry: TensorEntry) -> tuple[object, ...]:
    if len(entry.shards) == 1 and entry.shards[0].sizes == entry.shape:
        return entry.dtype, entry.shape
    return entry.dtype, entry.shape, [(shard.offsets, shard.sizes) for shard in entry.shards]


def _joined(described: dict[str, _Described], digests: bytes, chunk_bytes: int) -> dict[str, TensorEntry]:
    """Tensors with their digests, which stand in the same order."""
    tensors: dict[str, TensorEntry] = {}
    layouts: dict[_Described, list[_Span]] = {}
    at = 0
    for name, one in described.items():
        layout = layouts.get(one)
        if layout is None:  # most tensors are like another one
            layout = layouts[one] = _layout(name, one, chunk_bytes)
        shards = []
        for offsets, sizes, digest_bytes in layout:
            shards.append(Shard(offsets, sizes, digests[at : at + digest_bytes]))
            at += digest_bytes
        tensors[name] = TensorEntry(one.dtype, one.shape, tuple(shards))
    if at != len(digests):
        raise ValueError("it has another number of chunks than its tensors")
    return tensors


def _layout(name: str, one: _Described, chunk_bytes: int) -> list[_Span]:
    """The shards of a tensor, and how long their digests are."""
    _check_kind(name, one.dtype, one.shape)
    regions = one.regions if one.regions is not None else (((0,) * len(one.shape), one.shape),)
    for region in regions:
        _check_inside(name, region, one.shape)
    return [(offsets, sizes, _digest_bytes(one.dtype, sizes, chunk_bytes)) for offsets, sizes in regions]


# -- version 1 -----------------------------------------------------------------------------


def decode_first(details: bytes, table: bytes) -> Body:
    """Details and table of version 1."""
    decoded = _decode_table(table)
    return Body(_decode(details, Details), decoded.chunk_bytes, decoded.tensors)


def needs_first(table: bytes) -> set[bytes]:
    """Digests of all chunks in a table of version 1."""
    return set(split_digests(joined_digests(_decode_table(table).tensors)))


def _decode_table(section: bytes) -> _Table:
    table = _decode(section, _Table)
    _check_chunk_bytes(table.chunk_bytes)
    for name, entry in table.tensors.items():
        _check_kind(name, entry.dtype, entry.shape)
        for shard in entry.shards:
            _check_shard(name, entry, shard, table.chunk_bytes)
    return table


def _check_shard(name: str, entry: TensorEntry, shard: Shard, chunk_bytes: int) -> None:
    _check_inside(name, (shard.offsets, shard.sizes), entry.shape)
    if len(shard.chunks) != _digest_bytes(entry.dtype, shard.sizes, chunk_bytes):
        raise ValueError(f"its tensor {name!r} has the wrong number of chunks")


# -- both ----------------------------------------------------------------------------------


def _decode(section: bytes, kind: type[T]) -> T:
    try:
        return msgspec.msgpack.decode(section, type=kind)
    except (msgspec.DecodeError, ValueError, RecursionError) as error:
        raise ValueError(f"its {kind.__name__.strip('_').lower()} part does not parse ({error})") from error


def _digest_bytes(dtype: str, sizes: tuple[int, ...], chunk_bytes: int) -> int:
    """Of the chunks of a shard."""
    return DIGEST_BYTES * -(-ITEM_BYTES[dtype] * prod(sizes) // chunk_bytes)


def _check_chunk_bytes(chunk_bytes: int) -> None:
    if not 0 < chunk_bytes <= 1 << 30:
        raise ValueError("its chunk size is out of bounds")


def _check_kind(name: str, dtype: str, shape: tuple[int, ...]) -> None:
    if dtype not in ITEM_BYTES:
        raise ValueError(f"its tensor {name!r} has the unknown dtype {dtype!r}")
    if shape and (min(shape) < 0 or len(shape) > MOST_DIMENSIONS):
        raise ValueError(f"its tensor {name!r} has an impossible shape")


def _check_inside(name: str, region: Region, shape: tuple[int, ...]) -> None:
    offsets, sizes = region
    if not len(offsets) == len(sizes) == len(shape) or not all(map(_fit, offsets, sizes, shape)):
        raise ValueError(f"its tensor {name!r} has a shard outside its shape")


def _fit(offset: int, size: int, whole: int) -> bool:
    return offset >= 0 and size >= 0 and offset + size <= whole
