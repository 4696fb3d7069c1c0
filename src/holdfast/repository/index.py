"""Where the copies of each chunk lie, learned from pack indexes; never trusted to be complete.

A copy that is encoded by others of its pack is bad as soon as one of these is.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Iterator
from contextlib import suppress

import msgspec

from holdfast.domain.manifest import split_digests
from holdfast.errors import DamagedError, NotFoundError
from holdfast.repository import layout, records
from holdfast.repository.pack import PackEntry, read_index
from holdfast.storage.base import Storage


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
        self._copies: dict[bytes, list[Copy]] = {}
        self._packs: dict[str, list[PackEntry]] = {}
        self._based: dict[str, dict[bytes, PackEntry]] = {}
        """Packs in which chunks have bases, each by digest."""
        self._bad: set[tuple[str, bytes]] | None = None
        self.unreadable: dict[str, str] = {}

    def load(self, packs: Iterable[str]) -> None:
        """Read the indexes of these packs, once each; note those that cannot be read."""
        for pack_id in packs:
            if pack_id in self._packs:
                continue
            try:
                self.add(pack_id, read_index(self._storage, pack_id).entries)
                self.unreadable.pop(pack_id, None)
            except (DamagedError, NotFoundError) as error:
                self.unreadable[pack_id] = error.what

    def load_all(self) -> None:
        """Read the indexes of every pack that is present."""
        self.load(present_packs(self._storage))

    def add(self, pack_id: str, entries: list[PackEntry]) -> None:
        """Learn the contents of a pack."""
        self._packs[pack_id] = entries
        for entry in entries:
            self._copies.setdefault(entry.digest, []).append(Copy(pack_id, entry))
        if any(entry.bases for entry in entries):
            self._based[pack_id] = {entry.digest: entry for entry in entries}
            self._spread(pack_id)

    def forget(self, pack_id: str) -> None:
        """Unlearn a pack that is gone."""
        self._based.pop(pack_id, None)
        for entry in self._packs.pop(pack_id, []):
            left = [c for c in self._copies.get(entry.digest, []) if c.pack != pack_id]
            if left:
                self._copies[entry.digest] = left
            else:
                self._copies.pop(entry.digest, None)

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
        bad, known = self._bad_copies(), self._copies.get(digest, ())
        if len(known) <= 1 and not bad:  # asked several times for every chunk of a checkpoint
            return list(known)
        found = [c for c in known if (c.pack, digest) not in bad]
        return sorted(found, key=lambda c: c.pack)

    def copies_in(self, pack_id: str) -> list[Copy]:
        """Copies in a pack, in its order, that are not recorded bad."""
        bad = self._bad_copies()
        return [Copy(pack_id, e) for e in self.entries(pack_id) if (pack_id, e.digest) not in bad]

    def bases(self, copy: Copy) -> list[Copy]:
        """What a copy is encoded by: copies in its own pack, before it; none once that is forgotten."""
        inside = self._based.get(copy.pack, {}) if copy.entry.bases else {}
        return [Copy(copy.pack, inside[d]) for d in split_digests(copy.entry.bases) if d in inside]

    def last_copies(self, digest: bytes) -> list[Copy]:
        """Known copies; where all are recorded bad, those: one may turn out intact, or be salvaged."""
        return self.copies(digest) or sorted(self._copies.get(digest, ()), key=lambda c: c.pack)

    def holders(self, digests: Iterable[bytes], condemned: Collection[str] = ()) -> set[str]:
        """Packs that together hold one copy of each of these; of several the first that is not condemned."""
        chosen: set[str] = set()
        for digest in digests:
            known = self._copies.get(digest, ())
            if len(known) == 1:  # nearly always, and a repository has millions
                chosen.add(known[0].pack)
            elif known:
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
        unknown = set(digests).difference(self._copies)
        bad = {digest for _, digest in self._bad_copies()}
        return unknown | {d for d in bad.intersection(digests) if not self.copies(d)}

    def refresh(self) -> None:
        """Forget everything, such as packs that another process has deleted meanwhile."""
        self.__init__(self._storage)  # type: ignore[misc]  # same object, as new

    def record_damage(self, pack_id: str, digests: Collection[bytes], reason: str) -> None:
        """Durably note copies that two reads found bad."""
        self._note_bad(pack_id, digests)
        record = DamageRecord(pack_id, sorted(d.hex() for d in digests), reason)
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
            for entry in self._based.get(pack_id, {}).values():
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
