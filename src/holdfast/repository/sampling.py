"""What encoding a pack would save, told by a few of its chunks: alone, and by chunks of other packs."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, NamedTuple

from holdfast.codecs import registry
from holdfast.codecs.base import Base
from holdfast.domain.manifest import split_digests
from holdfast.repository.chunks import ChunkReader
from holdfast.repository.families import MEMBERS
from holdfast.repository.live import Live
from holdfast.repository.pack import RAW, PackEntry
from holdfast.repository.repository import Repository
from holdfast.repository.verify import UnrecordedIndex

if TYPE_CHECKING:
    import numpy as np
    import numpy.typing as npt

    Bytes = npt.NDArray[np.uint8]

SAMPLES = 4


class Gains(NamedTuple):
    """Shares of a pack's bytes that encoding saves.

    Attributes
    ----------
    alone : float
        Each chunk for itself.
    beside : mapping
        Pack → what deltas between the two save beyond that, in either.
    """

    alone: float = 0.0
    beside: Mapping[str, float] = {}


class Sampler:
    """Looks at packs that were never encoded, writing nothing, not even of damage.

    Parameters
    ----------
    chunks : mapping
        Pack → digests of its chunks that are needed, for every pack that may be rewritten.
    """

    def __init__(self, repository: Repository, live: Live, chunks: Mapping[str, Sequence[bytes]]) -> None:
        self._repository = repository
        self._live = live
        self._chunks = chunks
        self._homes = {digest: pack for pack, digests in chunks.items() for digest in digests}
        self._older = {newer: older for older, newer in live.newer.items()}
        self._rooms: dict[str, set[bytes]] = {}

    def gains(self, pack_id: str) -> Gains:
        """Encode a few chunks of a pack in every way that they may be."""
        digests = self._chunks[pack_id]
        asked = digests[:: -(-len(digests) // SAMPLES)]
        near = {other for d in asked for other in (*self._neighbours(d), *self._wide(d))}
        raw = self._read({*asked, *near}, [pack_id, *(self._homes[d] for d in near)])
        total = sum(len(raw[d]) for d in asked if d in raw)
        if not total:
            return Gains()
        alone, beside = 0, Counter[str]()
        for digest in asked:
            if digest in raw:
                alone_bytes = self._size(raw, digest)
                alone += len(raw[digest]) - alone_bytes
                beside.update(self._beside(raw, digest, alone_bytes))
        return Gains(alone / total, {p: n / total for p, n in beside.items() if p != pack_id})

    def _neighbours(self, digest: bytes) -> list[bytes]:
        """The same chunk in the next checkpoint and in the one before, where a delta may be made."""
        newer, older = self._live.newer.get(digest, b""), self._older.get(digest, b"")
        return [d for d in (newer, older) if d in self._homes and self._has_room(d)]

    def _wide(self, digest: bytes) -> tuple[bytes, ...]:
        """The chunks whose rounding this one seems to be, if they may be rewritten."""
        wide = self._live.wider.get(digest, ())
        return wide if all(d in self._homes for d in wide) else ()

    def _has_room(self, digest: bytes) -> bool:
        pack_id = self._homes[digest]
        if pack_id not in self._rooms:
            self._rooms[pack_id] = self._with_room(pack_id)
        return digest in self._rooms[pack_id]

    def _with_room(self, pack_id: str) -> set[bytes]:
        """The newest chunks of families that may grow."""
        roots: dict[bytes, bytes] = {}
        for entry in self._repository.index.entries(pack_id):
            below = next((roots[d] for d in split_digests(entry.bases)), entry.digest)
            roots[entry.digest] = below if below in self._live.needs else entry.digest
        needs, wider = self._live.needs, self._live.wider
        alive = Counter(root for digest, root in roots.items() if digest in needs and digest not in wider)
        return {root for root, members in alive.items() if members < MEMBERS}

    def _read(self, digests: set[bytes], packs: list[str]) -> dict[bytes, Bytes]:
        raw: dict[bytes, Bytes] = {}

        def sink(digest: bytes, data: Bytes) -> None:
            raw[digest] = data.copy()

        reader = ChunkReader(self._repository.storage, UnrecordedIndex(self._repository.storage))
        with self._repository.holding():
            reader.read(digests, packs, sink)
        return raw

    def _beside(self, raw: Mapping[bytes, Bytes], digest: bytes, alone_bytes: int) -> Counter[str]:
        """What a delta between this chunk and its neighbours saves, by the neighbours' packs."""
        saved: Counter[str] = Counter()
        newer, older = self._live.newer.get(digest, b""), self._older.get(digest, b"")
        wide = self._wide(digest)
        if wide and raw.keys() >= set(wide):
            saved[self._homes[wide[0]]] += alone_bytes - self._size(raw, digest, *wide)
            return saved
        if newer in raw:
            saved[self._homes[newer]] += alone_bytes - self._size(raw, digest, newer)
        if older in raw and (before := self._encoded_before(older)) is not None:
            saved[self._homes[older]] += before.stored_bytes - self._size(raw, older, digest)
        return saved

    def _encoded_before(self, digest: bytes) -> PackEntry | None:
        """Its entry in a pack that is not sampled itself."""
        entries = self._repository.index.entries(self._homes[digest])
        if all(entry.codec == RAW for entry in entries):
            return None
        return next(entry for entry in entries if entry.digest == digest)

    def _size(self, raw: Mapping[bytes, Bytes], digest: bytes, *bases: bytes) -> int:
        below = [Base(base, raw[base]) for base in bases]
        encoded = registry.encode(raw[digest], self._live.needs[digest].dtype, below)
        return len(encoded.data) if encoded is not None else len(raw[digest])
