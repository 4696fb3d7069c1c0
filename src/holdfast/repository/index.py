"""Where the copies of each chunk lie, learned from pack indexes; never trusted to be complete.

A copy that is encoded by others of its pack is bad as soon as one of these is.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress

import msgspec

from holdfast.domain.manifest import split_digests
from holdfast.errors import DamagedError, HoldfastError, NotFoundError
from holdfast.repository import layout, records
from holdfast.repository.pack import PackEntry, PackIndex, read_index
from holdfast.storage.base import Storage

THREADS = 8
"""Indexes read side by side from a store, where there are more."""
MOST_DIGESTS = 8192
"""In one record: half of what is read of it."""


class Copy(msgspec.Struct, frozen=True, gc=False, array_like=True):
    """One copy of a chunk: the pack that holds it, and where in it."""

    pack: str
    entry: PackEntry


class DamageRecord(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Copies found bad by two reads; ignored from then on by reads and dedup."""

    pack: str
    digests: list[str]
    reason: str

    def readable(self) -> Iterator[bytes]:
        """The digests; what is none, as only a forger writes it, claims nothing."""
        for text in self.digests:
            with suppress(ValueError):
                yield bytes.fromhex(text)


class ChunkIndex:
    """Digest → copies, for the packs looked at so far.

    Attributes
    ----------
    unreadable : dict[str, str]
        Packs whose index could not be used, with the reason.
    """

    def __init__(self, storage: Storage) -> None:
        self._storage = storage
        self._packs: dict[str, list[PackEntry]] = {}
        self._inside: dict[str, dict[bytes, PackEntry]] = {}
        """Entries by digest, of the packs asked for."""
        self._homes: dict[bytes, str] = {}
        """A pack for each chunk: marking a large repository learns of millions, and asks for nothing else."""
        self._more: dict[bytes, list[str]] = {}
        """Further packs, of the few chunks that have several copies."""
        self._based: set[str] = set()
        """Packs in which chunks have bases."""
        self._bad: set[tuple[str, bytes]] | None = None
        self.unreadable: dict[str, str] = {}

    def load(self, packs: Iterable[str]) -> None:
        """Read the indexes of these packs, once each; note those that cannot be read."""
        unknown = [pack_id for pack_id in dict.fromkeys(packs) if pack_id not in self._packs]
        for pack_id, found in zip(unknown, self._read(unknown), strict=True):
            if isinstance(found, HoldfastError):
                self.unreadable[pack_id] = found.what
            else:
                self.add(pack_id, found.entries)
                self.unreadable.pop(pack_id, None)

    def _read(self, packs: Sequence[str]) -> Iterator[PackIndex | HoldfastError]:
        """One behind the other from a disk, many side by side from a store, whose answers are waited for."""
        if self._storage.exclusive_locks or len(packs) <= THREADS:
            yield from map(self._read_one, packs)
            return
        with ThreadPoolExecutor(THREADS) as pool:
            yield from pool.map(self._read_one, packs)

    def _read_one(self, pack_id: str) -> PackIndex | HoldfastError:
        try:
            return read_index(self._storage, pack_id)
        except (DamagedError, NotFoundError) as error:
            return error

    def load_all(self) -> None:
        """Read the indexes of every pack that is present."""
        self.load(present_packs(self._storage))

    def add(self, pack_id: str, entries: list[PackEntry]) -> None:
        """Learn the contents of a pack."""
        self.forget(pack_id)
        self._packs[pack_id] = entries
        fresh = dict.fromkeys([entry.digest for entry in entries], pack_id)
        for digest in self._homes.keys() & fresh.keys():
            self._more.setdefault(digest, []).append(fresh.pop(digest))
        self._homes.update(fresh)
        if any(entry.bases for entry in entries):
            self._based.add(pack_id)
            self._spread(pack_id)

    def forget(self, pack_id: str) -> None:
        """Unlearn a pack that is gone."""
        self._based.discard(pack_id)
        self._inside.pop(pack_id, None)
        for entry in self._packs.pop(pack_id, []):
            left = [p for p in self._holding(entry.digest) if p != pack_id]
            self._homes.pop(entry.digest, None)
            self._more.pop(entry.digest, None)
            if left:
                self._homes[entry.digest] = left[0]
            if left[1:]:
                self._more[entry.digest] = left[1:]

    def retain(self, present: Collection[str]) -> None:
        """Unlearn every pack that is not among these, such as those another process has deleted."""
        for pack_id in self._packs.keys() - set(present):
            self.forget(pack_id)

    def packs(self) -> Collection[str]:
        """The packs learned."""
        return self._packs.keys()

    def entries(self, pack_id: str) -> list[PackEntry]:
        return self._packs.get(pack_id, [])

    def copies(self, digest: bytes) -> list[Copy]:
        """Known copies that are not recorded bad, smallest pack name first."""
        bad = self._bad_copies()
        if not bad:  # asked several times for every chunk of a checkpoint
            return self._known(digest)
        return [c for c in self._known(digest) if (c.pack, digest) not in bad]

    def copies_in(self, pack_id: str) -> list[Copy]:
        """Copies in a pack, in its order, that are not recorded bad."""
        bad = self._bad_copies()
        return [Copy(pack_id, e) for e in self.entries(pack_id) if (pack_id, e.digest) not in bad]

    def bases(self, copy: Copy) -> list[Copy]:
        """What a copy is encoded by: copies in its own pack, before it; none once that is forgotten."""
        if not copy.entry.bases or copy.pack not in self._based:
            return []
        inside = self._by_digest(copy.pack)
        return [Copy(copy.pack, inside[d]) for d in split_digests(copy.entry.bases) if d in inside]

    def last_copies(self, digest: bytes) -> list[Copy]:
        """Known copies; where all are recorded bad, those: one may turn out intact, or be salvaged."""
        return self.copies(digest) or self._known(digest)

    def _known(self, digest: bytes) -> list[Copy]:
        found = ((p, self._by_digest(p).get(digest)) for p in sorted(self._holding(digest)))
        return [Copy(p, entry) for p, entry in found if entry is not None]  # another thread may forget one

    def _holding(self, digest: bytes) -> list[str]:
        home = self._homes.get(digest)
        return [] if home is None else [home, *self._more.get(digest, ())]

    def _by_digest(self, pack_id: str) -> dict[bytes, PackEntry]:
        inside = self._inside.get(pack_id)
        if inside is None and pack_id in self._packs:
            inside = self._inside[pack_id] = {entry.digest: entry for entry in self.entries(pack_id)}
        return inside or {}

    def holders(self, digests: Iterable[bytes], condemned: Collection[str] = ()) -> set[str]:
        """Packs that together hold one copy of each of these; of several the first that is not condemned."""
        asked = set(digests)
        several = self._more.keys() & asked
        chosen = {pack for pack in map(self._homes.get, asked - several) if pack is not None}
        for digest in several:
            packs = [copy.pack for copy in self.last_copies(digest)]
            chosen.add(next((p for p in packs if p not in condemned), packs[0]))
        return chosen

    def cover(self, digests: Collection[bytes], hints: Iterable[str] = ()) -> set[bytes]:
        """Learn where these chunks lie: known packs, hinted ones, at last all; return those not found."""
        lacking = self._lacking(digests)
        if lacking:
            self.load(hints)
            lacking = self._lacking(lacking)
        if lacking:
            self.load_all()
            lacking = self._lacking(lacking)
        return lacking

    def _lacking(self, digests: Collection[bytes]) -> set[bytes]:
        """Those of which no copy is known that is not recorded bad."""
        unknown = set(digests).difference(self._homes)
        bad = {digest for _, digest in self._bad_copies()}
        return unknown | {d for d in bad.intersection(digests) if not self.copies(d)}

    def refresh(self) -> None:
        """Forget everything, such as packs that another process has deleted meanwhile."""
        self.__init__(self._storage)  # type: ignore[misc]  # same object, as new

    def record_damage(self, pack_id: str, digests: Collection[bytes], reason: str) -> None:
        """Durably note copies that two reads found bad."""
        self._note_bad(pack_id, digests)
        texts = sorted(d.hex() for d in digests)
        for start in range(0, len(texts), MOST_DIGESTS):
            record = DamageRecord(pack_id, texts[start : start + MOST_DIGESTS], reason)
            key = layout.damaged_pack(pack_id, layout.new_pack_id()[:8])
            self._storage.put_if_absent(key, records.encode(record))

    def proves_damage(self, digests: Collection[bytes], hints: Iterable[str]) -> bool:
        """Whether two reads found a copy of these chunks bad, or the index of a hinted pack.

        A pack that is merely missing proves nothing: it may come back.
        """
        bad = {digest for _, digest in self._bad_copies()}
        return not bad.isdisjoint(digests) or any(self._is_unusable(p) for p in hints if p in self.unreadable)

    def _is_unusable(self, pack_id: str) -> bool:
        try:
            read_index(self._storage, pack_id)
        except DamagedError:
            return True
        except NotFoundError:
            return False
        return False

    def _bad_copies(self) -> set[tuple[str, bytes]]:
        if self._bad is None:
            found = read_damage(self._storage)
            self._bad = {(r.pack, digest) for r in found for digest in r.readable()}
            for pack_id in list(self._based):
                self._spread(pack_id)
        return self._bad

    def _note_bad(self, pack_id: str, digests: Collection[bytes]) -> None:
        self._bad_copies().update((pack_id, d) for d in digests)
        self._spread(pack_id)

    def _spread(self, pack_id: str) -> None:
        """Copies that are encoded by bad ones are bad, too."""
        if self._bad:
            for entry in self._packs[pack_id] if pack_id in self._based else ():
                if any((pack_id, d) in self._bad for d in split_digests(entry.bases)):
                    self._bad.add((pack_id, entry.digest))


def present_packs(storage: Storage) -> Iterator[str]:
    """Ids of the packs that are there."""
    ids = (layout.pack_id_of(key) for key in storage.list(layout.PACKS))
    return (i for i in ids if i is not None)


def read_damage(storage: Storage) -> Iterator[DamageRecord]:
    """Every readable record of bad copies; an unreadable record claims nothing."""
    for key in storage.list(layout.DAMAGED_PACKS):
        record = records.read_or_none(storage, key, DamageRecord)
        if record is not None:
            yield record
