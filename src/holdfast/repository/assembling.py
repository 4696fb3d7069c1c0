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
        self._waiting: dict[int, _Shelf] = {}
        self._full: _Shelf | None = None
        """A pack kept back: it takes what would be a small one."""

    def add(self, chunks: Together) -> Iterator[list[Together]]:
        """Put chunks to their owner's; yield those of a pack that is full."""
        owner, more_bytes = chunks[0].owner, sum(len(one.data) for one in chunks)
        shelf = self._waiting.setdefault(owner, _Shelf())
        if shelf.size_bytes >= SMALL_BYTES and shelf.size_bytes + more_bytes > PACK_BYTES:
            if self._full is not None:
                yield self._full.chunks
            self._full, self._waiting[owner] = shelf, _Shelf()
        self._waiting[owner].take([chunks], more_bytes)

    def rest(self) -> Iterator[list[Together]]:
        """What is left, in packs of one owner each, unless that would make them small."""
        packs = [self._full] if self._full is not None else []
        pack = _Shelf()
        for _, shelf in sorted(self._waiting.items()):
            pack.take(shelf.chunks, shelf.size_bytes)
            if pack.size_bytes >= SMALL_BYTES:
                packs.append(pack)
                pack = _Shelf()
        if pack.chunks and packs:
            packs[-1].take(pack.chunks, pack.size_bytes)
        elif pack.chunks:
            packs.append(pack)
        yield from (pack.chunks for pack in packs)


class _Shelf:
    """Chunks for one pack, and their bytes as stored."""

    def __init__(self) -> None:
        self.chunks: list[Together] = []
        self.size_bytes = 0

    def take(self, chunks: Iterable[Together], size_bytes: int) -> None:
        self.chunks += chunks
        self.size_bytes += size_bytes


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
