"""The pack: an immutable file of chunks with its own index (docs/format.md).

``magic | chunks | index | padding | trailer``, a multiple of 4 KiB, so that it can be
written with O_DIRECT and its end read in one block.

A chunk may be encoded by others, its bases. They lie in the same pack, before it: so whoever keeps,
moves or relies on a pack has all that its chunks need, and no circle is possible.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator, Sequence
from itertools import pairwise
from typing import TYPE_CHECKING

import blake3
import msgspec

from holdfast.codecs.base import MOST_BASES
from holdfast.domain.manifest import split_digests
from holdfast.errors import DamagedError, FormatError
from holdfast.repository import layout
from holdfast.storage.base import Storage

if TYPE_CHECKING:
    from holdfast.storage.base import Buffer

MAGIC = b"HFPACK\x00\x01"
TRAILER_MAGIC = b"HFPKEND\x01"
BASED_MAGIC = b"HFPACK\x00\x02"
BASED_TRAILER_MAGIC = b"HFPKEND\x02"
"""Of a pack whose entries may name bases: who does not know of them must not take it for damaged."""
TRAILER = struct.Struct("<QQ32s8s")
BLOCK_BYTES = 4096
TAIL_READ_BYTES = 64 * 1024
"""Holds trailer and index of nearly every pack."""
MAX_INDEX_BYTES = 1 << 28
MOST_ENTRY_BYTES = 128
"""What an entry of a chunk as it is takes in the index, at most."""
RAW = "raw"
MAX_DEPTH = 3
"""Of bases of bases: a delta on a delta, and what is derived from it."""


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
    bases : bytes
        Digests, joined, of the chunks that decoding needs: entries of the same pack, before this one.
    """

    digest: bytes
    offset: int
    stored_bytes: int
    raw_bytes: int
    codec: str = RAW
    bases: bytes = b""


class PackIndex(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """A pack's table of contents; names its pack, so that swapped files are noticed."""

    pack: str
    entries: list[PackEntry]


class PackBuilder:
    """Yields a pack's bytes while learning what goes into it.

    Write `magic`, call `add` for each chunk and write its stored bytes; then `finish`.

    Parameters
    ----------
    based : bool
        Whether chunks may have bases; older versions cannot read such a pack.
    """

    def __init__(self, pack_id: str, *, based: bool = False) -> None:
        self.pack_id = pack_id
        self.entries: list[PackEntry] = []
        self.magic = BASED_MAGIC if based else MAGIC
        self._based = based
        self._offset = len(MAGIC)

    def add(
        self,
        digest: bytes,
        raw_bytes: int,
        codec: str = RAW,
        stored_bytes: int | None = None,
        bases: Sequence[bytes] = (),
    ) -> None:
        """Note that a chunk is written next, as it is or encoded in so many bytes by these bases."""
        stored_bytes = raw_bytes if stored_bytes is None else stored_bytes
        joined = b"".join(bases)
        self.entries.append(PackEntry(digest, self._offset, stored_bytes, raw_bytes, codec, joined))
        self._offset += stored_bytes

    def finish(self) -> Iterator[Buffer]:
        """Index, padding and trailer."""
        index = self._index()
        magic = BASED_TRAILER_MAGIC if self._based else TRAILER_MAGIC
        trailer = TRAILER.pack(self._offset, len(index), blake3.blake3(index).digest(), magic)
        padding = -(self._offset + len(index) + len(trailer)) % BLOCK_BYTES
        yield index + bytes(padding) + trailer

    def _index(self) -> bytes:
        fields = None if self._based else 5
        entries = [msgspec.structs.astuple(entry)[:fields] for entry in self.entries]
        return msgspec.msgpack.encode({"pack": self.pack_id, "entries": entries})


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
    if _is_newer(magic, BASED_TRAILER_MAGIC) and _is_newer(storage.get(key, 0, len(MAGIC)), BASED_MAGIC):
        raise FormatError(f"Pack {pack_id} was written by a newer version.", do="Upgrade holdfast.")
    known = magic in (TRAILER_MAGIC, BASED_TRAILER_MAGIC)
    if not known or length > MAX_INDEX_BYTES or start + length + TRAILER.size > size_bytes:
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
    if not _are_inside(result.entries, data_end):
        raise _damaged(pack_id, "its index points outside the pack")
    if not _are_well_based(result.entries):
        raise _damaged(pack_id, "its index names bases that cannot be")
    return result


def _are_inside(entries: list[PackEntry], data_end: int) -> bool:
    start = len(MAGIC)
    return all(start <= e.offset and 0 <= e.stored_bytes <= data_end - e.offset for e in entries)


def _are_well_based(entries: list[PackEntry]) -> bool:
    """Whether all bases lie before what needs them, few and not deep: so that reading ends."""
    if not any(entry.bases for entry in entries):
        return True
    if any(later.offset < entry.offset for entry, later in pairwise(entries)):
        return False  # threads that read one another's bases wait for what lies before
    depths: dict[bytes, int] = {}
    for entry in entries:
        below = [depths.get(base, MAX_DEPTH) for base in split_digests(entry.bases)]
        if len(below) > MOST_BASES or max(below, default=-1) >= MAX_DEPTH or entry.digest in depths:
            return False
        depths[entry.digest] = max(below, default=-1) + 1
    return True


def _damaged(pack_id: str, why: str) -> DamagedError:
    return DamagedError(f"Pack {pack_id} is damaged: {why}.")
