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


class Stored(NamedTuple):
    """A chunk as it will stand in its new pack."""

    digest: bytes
    raw_bytes: int
    codec: str
    data: Buffer
    bases: tuple[bytes, ...] = ()


Together = list[Stored]
"""Chunks that must lie in one pack, each after its bases."""


class Shelves:
    """Chunks that wait for more of the same owner, until they fill a pack."""

    def __init__(self) -> None:
        self._waiting: dict[int, Together] = {}
        self._sizes: dict[int, int] = {}

    def add(self, owner: int, chunks: Together) -> Iterator[Together]:
        """Put chunks to their owner's; yield those of a pack that is full."""
        size_bytes = sum(one.raw_bytes for one in chunks)
        if self._waiting.get(owner) and self._sizes[owner] + size_bytes > PACK_BYTES:
            yield self._take(owner)
        self._waiting.setdefault(owner, []).extend(chunks)
        self._sizes[owner] = self._sizes.get(owner, 0) + size_bytes

    def rest(self) -> Iterator[Together]:
        """What is left, in packs of one owner each, unless that would make them small."""
        pack: Together = []
        size_bytes = 0
        for owner in sorted(self._waiting):
            if pack and (size_bytes >= SMALL_BYTES or size_bytes + self._sizes[owner] > PACK_BYTES):
                yield pack
                pack, size_bytes = [], 0
            size_bytes += self._sizes[owner]
            pack += self._take(owner)
        if pack:
            yield pack

    def _take(self, owner: int) -> Together:
        del self._sizes[owner]
        return self._waiting.pop(owner)


def in_order(chunks: Iterable[Stored]) -> list[Stored]:
    """What stands alone first, as the newest checkpoint needs nothing else; then what builds on it."""
    chunks = list(chunks)
    depths: dict[bytes, int] = {}
    for one in chunks:
        depths[one.digest] = max((depths[base] + 1 for base in one.bases), default=0)
    return sorted(chunks, key=lambda one: depths[one.digest])


def pack_bytes(builder: PackBuilder, chunks: Iterable[Stored]) -> Iterator[Buffer]:
    """The bytes of a pack of these."""
    yield builder.magic
    for one in chunks:
        builder.add(one.digest, one.raw_bytes, one.codec, len(one.data), one.bases)
        yield one.data
    yield from builder.finish()
