"""Encoded chunks put together to packs: what builds on one another in one, and checkpoints apart."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import TYPE_CHECKING, NamedTuple

from holdfast.repository.pack import PackBuilder
from holdfast.repository.writing import PACK_BYTES

if TYPE_CHECKING:
    from holdfast.storage.base import Buffer

SMALL_BYTES = 8 * 1024 * 1024
"""Packs smaller than that are merged; larger ones hold chunks of one checkpoint, which go together."""


SEGMENT_BYTES = 32 * 1024 * 1024
"""Decoded, of chunks that build on one another within it: a reader keeps no more of them at a time."""


class Stored(NamedTuple):
    """A chunk as it will stand in its new pack.

    Attributes
    ----------
    owner : int
        Number of the newest checkpoint that needs it.
    """

    digest: bytes
    raw_bytes: int
    codec: str
    data: Buffer
    bases: tuple[bytes, ...] = ()
    owner: int = 0


Together = list[Stored]
"""Chunks that must lie in one pack, each after its bases; the first is the newest."""


class Shelves:
    """Chunks that wait for more of the same owner, until they fill a pack.

    No pack is small if it can be helped, or a next compaction would merge it.
    """

    def __init__(self) -> None:
        self._waiting: dict[int, list[Together]] = {}
        self._full: list[Together] = []
        """A pack kept back: it takes what would be a small one."""

    def add(self, chunks: Together) -> Iterator[list[Together]]:
        """Put chunks to their owner's; yield those of a pack that is full."""
        waiting = self._waiting.setdefault(chunks[0].owner, [])
        waiting_bytes = _stored_bytes(waiting)
        if waiting_bytes >= SMALL_BYTES and waiting_bytes + _stored_bytes([chunks]) > PACK_BYTES:
            if self._full:
                yield self._full
            self._full = self._waiting.pop(chunks[0].owner)
        self._waiting.setdefault(chunks[0].owner, []).append(chunks)

    def rest(self) -> Iterator[list[Together]]:
        """What is left, in packs of one owner each, unless that would make them small."""
        packs = [self._full] if self._full else []
        pack: list[Together] = []
        for owner in sorted(self._waiting):
            pack = pack + self._waiting[owner]
            if _stored_bytes(pack) >= SMALL_BYTES:
                packs.append(pack)
                pack = []
        if pack and packs:
            packs[-1] = packs[-1] + pack
        elif pack:
            packs.append(pack)
        yield from packs


def _stored_bytes(pack: Iterable[Together]) -> int:
    return sum(len(one.data) for chunks in pack for one in chunks)


def in_order(pack: Iterable[Together]) -> Iterator[Stored]:
    """The newest checkpoint's chunks first, which need nothing else, then the next one's: so by segments."""
    segment: Together = []
    size_bytes = 0
    for chunks in pack:
        more_bytes = sum(one.raw_bytes for one in chunks)
        if segment and size_bytes + more_bytes > SEGMENT_BYTES:
            yield from _by_generation(segment)
            segment, size_bytes = [], 0
        segment += chunks
        size_bytes += more_bytes
    yield from _by_generation(segment)


def _by_generation(chunks: Together) -> Together:
    """Each after its bases, and those of a checkpoint together."""
    met: dict[bytes, tuple[int, int]] = {}
    for one in chunks:
        below = [met[base] for base in one.bases]
        generation = max((g + (owner != one.owner) for g, owner in below), default=0)
        met[one.digest] = generation, one.owner
    return sorted(chunks, key=lambda one: (met[one.digest][0], -one.owner))


def pack_bytes(builder: PackBuilder, pack: Iterable[Together]) -> Iterator[Buffer]:
    """The bytes of a pack of these."""
    yield builder.magic
    for one in in_order(pack):
        builder.add(one.digest, one.raw_bytes, one.codec, len(one.data), one.bases)
        yield one.data
    yield from builder.finish()
