"""Some packs written anew: read with digests, encoded, put together by family, read back."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from itertools import chain
from typing import TYPE_CHECKING

from holdfast.codecs import registry
from holdfast.codecs.base import Base
from holdfast.errors import HoldfastError, NotFoundError, StorageError
from holdfast.repository import layout, records, retention
from holdfast.repository.assembling import Shelves, Stored, Together, pack_bytes
from holdfast.repository.chunks import WORKERS, ChunkReader
from holdfast.repository.families import Family, Member, divided, families
from holdfast.repository.live import Live, Seen
from holdfast.repository.pack import RAW, PackBuilder
from holdfast.repository.repository import Repository
from holdfast.repository.verify import UnrecordedIndex
from holdfast.repository.writing import PACK_BYTES, in_groups

if TYPE_CHECKING:
    import numpy as np
    import numpy.typing as npt

    Bytes = npt.NDArray[np.uint8]


class Rewriting:
    """Some packs, rewritten and condemned; the repository is held meanwhile.

    Parameters
    ----------
    packs : collection of str
        To be replaced.
    digests : collection of bytes
        What of them is to be carried over.
    advance : callable
        Told the bytes of each chunk rewritten.
    hard : bool
        Encode as small as it gets.

    Attributes
    ----------
    unread : int
        Chunks of which no good copy was found.
    """

    def __init__(
        self,
        repository: Repository,
        live: Live,
        packs: Collection[str],
        digests: Collection[bytes],
        advance: Callable[[int], None],
        *,
        hard: bool = False,
    ) -> None:
        self._repository = repository
        self._storage = repository.storage
        self._live = live
        self._packs = set(packs)
        self._digests = set(digests)
        self._advance = advance
        self._hard = hard
        self._new: list[str] = []
        self._condemned: list[str] = []
        self.unread = 0

    def run(self) -> list[str]:
        """New packs; durable, read back, and found by every checkpoint that needs them."""
        try:
            for pack in self._packed(Shelves()):
                self._write(pack)
            self._read_back()
            for pack_id in sorted(self._packs):
                self._condemn(pack_id)
        except BaseException:
            self._undo()
            raise
        self._repository.index.load(self._new)
        self._hint()
        return self._new

    # -- new packs -------------------------------------------------------------------------

    def _packed(self, shelves: Shelves) -> Iterator[list[Together]]:
        """What goes into each new pack."""
        for group in groups(self._live, self._repository, self._digests):
            raw = self._read({member.digest for family in group for member in family})
            with ThreadPoolExecutor(WORKERS) as pool:
                encoded = list(pool.map(lambda family, raw=raw: self._encoded(family, raw), group))
            for chunks in chain.from_iterable(map(divided, encoded)):
                yield from shelves.add(chunks)
        yield from shelves.rest()

    def _write(self, pack: list[Together]) -> None:
        based = any(one.bases for chunks in pack for one in chunks)
        builder = PackBuilder(layout.new_pack_id(), based=based)
        self._new.append(builder.pack_id)
        self._storage.put(layout.pack(builder.pack_id), pack_bytes(builder, pack))

    def _read(self, digests: Collection[bytes]) -> dict[bytes, Bytes]:
        raw: dict[bytes, Bytes] = {}

        def sink(digest: bytes, data: Bytes) -> None:
            raw[digest] = data.copy()

        # What cannot be read stays where it is: marking will find that its pack is needed.
        self.unread += len(self._repository.reader.read(digests, sorted(self._packs), sink))
        return raw

    def _encoded(self, family: Family, raw: dict[bytes, Bytes]) -> list[Stored]:
        there = {member.digest: raw.pop(member.digest) for member in family if member.digest in raw}
        found = [self._stored(member, there) for member in family if member.digest in there]
        self._advance(sum(len(data) for data in there.values()))
        return found

    def _stored(self, member: Member, there: dict[bytes, Bytes]) -> Stored:
        data = there[member.digest]
        bases = [Base(d, there[d]) for d in member.bases if d in there]
        need = self._live.needs[member.digest]
        encoded = registry.encode(data, need.dtype, bases, hard=self._hard)
        if encoded is None:
            return Stored(member.digest, len(data), RAW, data, (), need.owner)
        return Stored(member.digest, len(data), encoded.codec, encoded.data, encoded.bases, need.owner)

    def _read_back(self) -> None:
        """Old copies go, so the new ones must be good where they rest, not only in memory."""
        index = UnrecordedIndex(self._storage)
        index.load(self._new)
        written = {entry.digest for pack_id in self._new for entry in index.entries(pack_id)}
        ChunkReader(self._storage, index).read(written, self._new, lambda digest, raw: None)
        for pack_id in self._new:
            if not index.entries(pack_id) or len(index.copies_in(pack_id)) < len(index.entries(pack_id)):
                raise StorageError(
                    f"Pack {pack_id} was just written to {self._storage.location} and does not read back.",
                    do="Check the disk and the memory; nothing was removed.",
                )

    # -- instead of the old ones -----------------------------------------------------------

    def _condemn(self, pack_id: str) -> None:
        record = records.CondemnedRecord(pack_id, self._storage.now_seconds())
        self._condemned.append(pack_id)
        self._storage.put_if_absent(layout.condemned_pack(pack_id), records.encode(record))

    def _undo(self) -> None:
        """Nobody was told of the new packs, and every chunk in them is in its old one."""
        keys = [*map(layout.condemned_pack, self._condemned), *map(layout.pack, self._new)]
        for key in keys:
            with suppress(HoldfastError):  # left over, the next prune takes it
                self._storage.delete(key)

    def _hint(self) -> None:
        """Tell checkpoints where their chunks lie now."""
        condemned = self._repository.condemned_packs().keys() | self._packs
        for seen in self._live.checkpoints:
            with suppress(NotFoundError):  # removed meanwhile
                needed = retention.packs_of(seen.run, seen.id, condemned)
                if not seen.hints.isdisjoint(self._packs) or not needed <= seen.hints:
                    self._put_hint(seen, needed)

    def _put_hint(self, seen: Seen, needed: Collection[str]) -> None:
        layout_of_run = seen.run.layout
        if self._storage.stat(layout_of_run.checkpoint(seen.id)) is not None:
            hint = records.encode(records.HintRecord(sorted(needed)))
            self._storage.put(layout_of_run.hint(seen.id), [hint])
            seen.hints = set(needed)


def groups(live: Live, repository: Repository, digests: Collection[bytes]) -> Iterator[list[Family]]:
    """Families, the oldest first, of as many bytes as are worked on at a time."""
    newest_first = sorted(digests, key=lambda d: live.needs[d].place, reverse=True)
    found = reversed(families(newest_first, live.newer, live.wider))
    return in_groups(found, lambda f: sum(_raw_bytes(repository, member.digest) for member in f), PACK_BYTES)


def _raw_bytes(repository: Repository, digest: bytes) -> int:
    copy = next(iter(repository.index.last_copies(digest)), None)
    return copy.entry.raw_bytes if copy is not None else 0
