"""The pack: an immutable file of chunks with its own index (docs/format.md).

``magic | chunks | index | padding | trailer``, a multiple of 4 KiB, so that it can be
written with O_DIRECT and its end read in one block.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator
from typing import TYPE_CHECKING

import blake3
import msgspec

from holdfast.errors import DamagedError, FormatError
from holdfast.repository import layout
from holdfast.storage.base import Storage

if TYPE_CHECKING:
    from holdfast.storage.base import Buffer

MAGIC = b"HFPACK\x00\x01"
TRAILER_MAGIC = b"HFPKEND\x01"
TRAILER = struct.Struct("<QQ32s8s")
BLOCK_BYTES = 4096
TAIL_READ_BYTES = 16 * 1024
MAX_INDEX_BYTES = 1 << 28
RAW = "raw"


class PackEntry(msgspec.Struct, frozen=True, gc=False, array_like=True, forbid_unknown_fields=True):
    """One chunk in a pack.

    Attributes
    ----------
    digest : bytes
        BLAKE3 of the chunk's raw bytes.
    offset, stored_bytes : int
        Where its encoding lies in the pack.
    raw_bytes : int
        Its decoded size.
    codec : str
        How it is encoded; ``raw`` means as it is.
    """

    digest: bytes
    offset: int
    stored_bytes: int
    raw_bytes: int
    codec: str = RAW


class PackIndex(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """A pack's table of contents; names its pack, so that swapped files are noticed."""

    pack: str
    entries: list[PackEntry]


class PackBuilder:
    """Yields a pack's bytes while learning what goes into it.

    Call `add` for each chunk and write its stored bytes after `MAGIC`; then `finish`.
    """

    def __init__(self, pack_id: str) -> None:
        self.pack_id = pack_id
        self.entries: list[PackEntry] = []
        self._offset = len(MAGIC)

    def add(self, digest: bytes, raw_bytes: int, codec: str = RAW, stored_bytes: int | None = None) -> None:
        """Note that a chunk is written next, as it is or encoded in so many bytes."""
        stored_bytes = raw_bytes if stored_bytes is None else stored_bytes
        self.entries.append(PackEntry(digest, self._offset, stored_bytes, raw_bytes, codec))
        self._offset += stored_bytes

    def finish(self) -> Iterator[Buffer]:
        """Index, padding and trailer."""
        index = msgspec.msgpack.encode(PackIndex(self.pack_id, self.entries))
        trailer = TRAILER.pack(self._offset, len(index), blake3.blake3(index).digest(), TRAILER_MAGIC)
        padding = -(self._offset + len(index) + len(trailer)) % BLOCK_BYTES
        yield index + bytes(padding) + trailer


def read_index(storage: Storage, pack_id: str) -> PackIndex:
    """Read and verify the index of a pack.

    Raises
    ------
    NotFoundError
        There is no such pack.
    DamagedError
        Trailer or index do not match their digests or bounds.
    """
    key = layout.pack(pack_id)
    stat = storage.stat(key)
    size_bytes = stat.size_bytes if stat is not None else 0
    tail_start = max(0, size_bytes - TAIL_READ_BYTES)
    tail = storage.get(key, tail_start, size_bytes)  # raises NotFoundError if absent
    if len(tail) < TRAILER.size + len(MAGIC) or size_bytes % BLOCK_BYTES:
        raise _damaged(pack_id, "it is truncated")
    start, length, digest, magic = TRAILER.unpack(tail[-TRAILER.size :])
    if _is_newer(magic, TRAILER_MAGIC) and _is_newer(storage.get(key, 0, len(MAGIC)), MAGIC):
        raise FormatError(f"Pack {pack_id} was written by a newer version.", do="Upgrade holdfast.")
    if magic != TRAILER_MAGIC or length > MAX_INDEX_BYTES or start + length + TRAILER.size > size_bytes:
        raise _damaged(pack_id, "its trailer is not a pack's")
    if start >= tail_start:
        index = tail[start - tail_start : start - tail_start + length]
    else:
        index = storage.get(key, start, start + length)
    return _decode_index(index, digest, pack_id, start)


def _is_newer(magic: bytes, known: bytes) -> bool:
    """Whether it is that of a later version; both ends must say so, else it is a flipped byte."""
    return len(magic) == len(known) and magic[:7] == known[:7] and magic[7] > known[7]


def _decode_index(index: bytes, digest: bytes, pack_id: str, data_end: int) -> PackIndex:
    if blake3.blake3(index).digest() != digest:
        raise _damaged(pack_id, "its index does not match its digest")
    try:
        result = msgspec.msgpack.decode(index, type=PackIndex)
    except (msgspec.DecodeError, ValueError, RecursionError) as error:
        raise _damaged(pack_id, f"its index does not parse ({error})") from error
    if result.pack != pack_id:
        raise _damaged(pack_id, f"its index is that of pack {result.pack}")
    if any(not _inside(entry, data_end) for entry in result.entries):
        raise _damaged(pack_id, "its index points outside the pack")
    return result


def _inside(entry: PackEntry, data_end: int) -> bool:
    return len(MAGIC) <= entry.offset and 0 <= entry.stored_bytes <= data_end - entry.offset


def _damaged(pack_id: str, why: str) -> DamagedError:
    return DamagedError(f"Pack {pack_id} is damaged: {why}.")
