"""Packs rewritten smaller: encoded where it pays, small ones merged, chunks that nothing needs left out.

Manifests stay as they are: they name chunks, not packs. New packs are durable and have been read
back before an old one is condemned; and an old one goes as any pack goes, by `retention`, which
marks again under the lock. Killed at any point, a chunk merely has two copies for a while.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Iterator, Sequence
from contextlib import suppress
from typing import TYPE_CHECKING

import msgspec

from holdfast.codecs import registry
from holdfast.errors import HoldfastError, NotFoundError, StorageError
from holdfast.repository import layout, records, retention
from holdfast.repository.chunks import ChunkReader
from holdfast.repository.index import present_packs
from holdfast.repository.live import Live, Seen
from holdfast.repository.pack import RAW, PackBuilder
from holdfast.repository.repository import Repository
from holdfast.repository.verify import UnrecordedIndex
from holdfast.repository.writing import PACK_BYTES, Stored, put_pack

if TYPE_CHECKING:
    import numpy as np
    import numpy.typing as npt

    Bytes = npt.NDArray[np.uint8]

SMALL_BYTES = 8 * 1024 * 1024
"""Packs smaller than that are merged; larger ones hold chunks of one checkpoint, which go together."""
BATCH_BYTES = 256 * 1024 * 1024
"""Rewritten before the old packs go: what a compaction needs of free space."""
LEAST_DEAD = 0.2
LEAST_GAIN = 0.03
SAMPLES = 4


class Victim(msgspec.Struct, frozen=True):
    """A pack that may be rewritten.

    Attributes
    ----------
    digests : list[bytes]
        Its chunks that some checkpoint needs.
    raw_bytes, stored_bytes : int
        Of these, decoded and as they are stored.
    dead_bytes : int
        Of those that nothing needs.
    gain_bytes : int
        What encoding will save, as a sample tells.
    """

    pack: str
    size_bytes: int
    digests: list[bytes]
    raw_bytes: int
    stored_bytes: int
    dead_bytes: int
    gain_bytes: int = 0

    @property
    def is_worth(self) -> bool:
        """Whether it should be rewritten for its own sake."""
        dead = self.dead_bytes > LEAST_DEAD * (self.dead_bytes + self.stored_bytes)
        return dead or self.gain_bytes > LEAST_GAIN * self.stored_bytes


class Plan(msgspec.Struct, frozen=True):
    """What a compaction would do.

    Attributes
    ----------
    victims : list[Victim]
        In order of the newest checkpoints that need them.
    size_bytes : int
        Of all packs there are.
    only : bool
        Whether it is for some runs only.
    """

    repository: Repository
    live: Live
    victims: list[Victim]
    size_bytes: int
    only: bool

    @property
    def raw_bytes(self) -> int:
        """To be read and encoded."""
        return sum(victim.raw_bytes for victim in self.victims)

    @property
    def expected_bytes(self) -> int:
        """Of all packs afterwards, about."""
        return self.size_bytes - sum(v.dead_bytes + v.gain_bytes for v in self.victims)


class Compacted(msgspec.Struct):
    """What a compaction did.

    Attributes
    ----------
    packs_removed, packs_written : int
    bytes_before, bytes_after : int
        Of all packs.
    waiting : int
        Packs condemned whose grace has not passed yet.
    unread : int
        Chunks of which no good copy was found; their packs stay.
    busy : bool
        Old packs stand yet, because another process was saving or reading all the time.
    """

    packs_removed: int = 0
    packs_written: int = 0
    bytes_before: int = 0
    bytes_after: int = 0
    waiting: int = 0
    unread: int = 0
    busy: bool = False


# -- what to do ------------------------------------------------------------------------------


def plan(repository: Repository, names: Collection[str] | None = None) -> Plan:
    """Look at every pack, writing nothing.

    Parameters
    ----------
    names : collection of str, optional
        Runs whose packs are meant; else all.

    Raises
    ------
    DamagedError
        A manifest cannot be read, so nobody knows what it needs.
    """
    with repository.holding():
        live = Live(repository, names)
        repository.index.load_all()
        sizes = _pack_sizes(repository)
        fixed = live.pinned | repository.condemned_packs().keys()
    meant = sizes.keys() - fixed if names is None else live.wanted & sizes.keys() - fixed
    found = [_looked_at(repository, live, pack_id, sizes[pack_id]) for pack_id in sorted(meant)]
    chosen = _chosen(repository, live, [v for v in found if v is not None and v.digests])
    return Plan(repository, live, chosen, sum(sizes.values()), only=names is not None)


def _pack_sizes(repository: Repository) -> dict[str, int]:
    stats = {p: repository.storage.stat(layout.pack(p)) for p in present_packs(repository.storage)}
    return {p: stat.size_bytes for p, stat in stats.items() if stat is not None}


def _looked_at(repository: Repository, live: Live, pack_id: str, size_bytes: int) -> Victim | None:
    """What of a pack is alive; None where not all of that can be carried over."""
    entries = repository.index.entries(pack_id)
    if any(e.codec != RAW and e.codec not in registry.CODECS for e in entries):
        return None
    alive = [e for e in entries if e.digest in live.needs]
    if any(not repository.index.copies(e.digest) for e in alive):
        return None  # of a chunk found damaged this copy is the last
    stored_bytes = sum(e.stored_bytes for e in alive)
    return Victim(
        pack_id,
        size_bytes,
        [e.digest for e in alive],
        raw_bytes=sum(e.raw_bytes for e in alive),
        stored_bytes=stored_bytes,
        dead_bytes=sum(e.stored_bytes for e in entries) - stored_bytes,
    )


def _chosen(repository: Repository, live: Live, found: list[Victim]) -> list[Victim]:
    """Those worth it: much of them dead, or compressible, or small and not alone."""
    sampled = [_sampled(repository, live, victim) for victim in found]
    chosen = [v for v in sampled if v.is_worth]
    small = [v for v in sampled if not v.is_worth and v.size_bytes < SMALL_BYTES]
    chosen += small if len(small) + bool(chosen) > 1 else []
    return sorted(chosen, key=lambda v: min(live.needs[d].place for d in v.digests))


def _sampled(repository: Repository, live: Live, victim: Victim) -> Victim:
    """Expect of a pack that was never encoded what a few of its chunks give."""
    if any(e.codec != RAW for e in repository.index.entries(victim.pack)):
        return victim
    sizes: list[tuple[int, int]] = []

    def sink(digest: bytes, raw: Bytes) -> None:
        encoded = registry.encode(raw, live.needs[digest].dtype)
        sizes.append((len(raw), len(encoded[1]) if encoded is not None else len(raw)))

    step = -(-len(victim.digests) // SAMPLES)
    reader = ChunkReader(repository.storage, UnrecordedIndex(repository.storage))  # it only looks
    with repository.holding():
        reader.read(set(victim.digests[::step]), [victim.pack], sink)
    before, after = (sum(column) for column in zip(*sizes, strict=True)) if sizes else (1, 1)
    return msgspec.structs.replace(victim, gain_bytes=victim.raw_bytes * (before - after) // before)


# -- doing it --------------------------------------------------------------------------------


def apply(
    planned: Plan, *, wait_seconds: float = 60.0, advance: Callable[[int], None] = lambda size: None
) -> Compacted:
    """Rewrite as planned, some packs at a time, and remove what is not needed any more.

    Parameters
    ----------
    wait_seconds : float
        How long to wait for savers and readers, before old packs are removed.
    advance : callable
        Told the bytes of each chunk rewritten.

    Raises
    ------
    StorageError
        Such as a full disk: every checkpoint is as it was.
    """
    repository = planned.repository
    result = Compacted(bytes_before=planned.size_bytes)
    for batch in _batches(planned.victims):
        with repository.holding(saving=True):
            rewriting = _Rewriting(repository, planned.live, batch, advance)
            result.packs_written += len(rewriting.run())
            result.unread += rewriting.unread
        packs = {victim.pack for victim in batch}
        _count(result, retention.remove_packs(repository, packs, wait_seconds=wait_seconds))
    if not planned.only:
        _count(result, retention.sweep(repository, wait_seconds=wait_seconds))
    result.bytes_after = sum(_pack_sizes(repository).values())
    return result


def _batches(victims: Iterable[Victim]) -> Iterator[list[Victim]]:
    batch: list[Victim] = []
    for victim in victims:
        if batch and sum(v.raw_bytes for v in batch) + victim.raw_bytes > BATCH_BYTES:
            yield batch
            batch = []
        batch.append(victim)
    if batch:
        yield batch


def _count(result: Compacted, pruned: retention.Pruned) -> None:
    result.packs_removed += len(pruned.packs)
    result.waiting = pruned.waiting
    result.busy |= pruned.busy


class _Rewriting:
    """Some packs, rewritten and condemned; the repository is held meanwhile."""

    def __init__(
        self, repository: Repository, live: Live, batch: Sequence[Victim], advance: Callable[[int], None]
    ) -> None:
        self._repository = repository
        self._storage = repository.storage
        self._live = live
        self._packs = {victim.pack for victim in batch}
        self._digests = {digest for victim in batch for digest in victim.digests}
        self._advance = advance
        self._new: list[str] = []
        self._condemned: list[str] = []
        self.unread = 0

    def run(self) -> list[str]:
        """New packs; durable, read back, and found by every checkpoint that needs them."""
        try:
            for group in _groups(self._live, self._repository, self._digests):
                self._write(group)
            self._read_back()
            for pack_id in sorted(self._packs):
                self._condemn(pack_id)
        except BaseException:
            self._undo()
            raise
        self._repository.index.load(self._new)
        self._hint()
        return self._new

    def _write(self, group: list[bytes]) -> None:
        stored: dict[bytes, Stored] = {}

        def sink(digest: bytes, raw: Bytes) -> None:
            codec, data = registry.encode(raw, self._live.needs[digest].dtype) or (RAW, raw.tobytes())
            stored[digest] = Stored(codec, len(raw), data)
            self._advance(len(raw))

        # What cannot be read stays where it is: marking will find that its pack is needed.
        self.unread += len(self._repository.reader.read(group, sorted(self._packs), sink))
        if stored:
            builder = PackBuilder(layout.new_pack_id())
            self._new.append(builder.pack_id)
            put_pack(self._storage, builder, {d: stored[d] for d in group if d in stored})

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


def _groups(live: Live, repository: Repository, digests: Collection[bytes]) -> Iterator[list[bytes]]:
    """Chunks of one pack each: of one owner, unless that would make it small."""
    group: list[bytes] = []
    size_bytes, owner = 0, 0
    for digest in sorted(digests, key=lambda d: live.needs[d].place):
        copy = next(iter(repository.index.last_copies(digest)), None)
        raw_bytes = copy.entry.raw_bytes if copy is not None else 0
        parts = size_bytes >= SMALL_BYTES and live.needs[digest].owner != owner
        if group and (parts or size_bytes + raw_bytes > PACK_BYTES):
            yield group
            group, size_bytes = [], 0
        group.append(digest)
        size_bytes += raw_bytes
        owner = live.needs[digest].owner
    if group:
        yield group
