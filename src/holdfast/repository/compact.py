"""Packs rewritten smaller: encoded where it pays, small ones merged, chunks that nothing needs left out.

Manifests stay as they are: they name chunks, not packs. New packs are durable and have been read
back before an old one is condemned; and an old one goes as any pack goes, by `retention`, which
marks again under the lock. Killed at any point, a chunk merely has two copies for a while.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator

import msgspec

from holdfast.codecs import registry
from holdfast.domain.manifest import split_digests
from holdfast.repository import cold, layout, retention
from holdfast.repository.assembling import SMALL_BYTES
from holdfast.repository.batching import Pack, batched, make_links
from holdfast.repository.deriving import find_rounded, known_rounded
from holdfast.repository.index import present_packs
from holdfast.repository.live import Live
from holdfast.repository.pack import RAW, PackEntry
from holdfast.repository.repository import Repository
from holdfast.repository.rewriting import Rewriting
from holdfast.repository.sampling import Gains, Sampler

BATCH_BYTES = 320 * 1024 * 1024
"""Rewritten before the old packs go, and free space that it needs: a family's packs, as saves write them."""
LEAST_DEAD = 0.2
LEAST_GAIN = 0.03
LEAST_HARD_GAIN = 0.02


class Victim(msgspec.Struct, frozen=True):
    """A pack that may be rewritten.

    Attributes
    ----------
    digests : list[bytes]
        Its chunks that some checkpoint needs.
    raw_bytes, stored_bytes : int
        Of these, decoded and as they are stored.
    dead_bytes : int
        What goes with chunks that nothing needs, or that are needed only to decode others.
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
    hard : bool
        Whether to encode as small as it gets.
    """

    repository: Repository
    live: Live
    victims: list[Victim]
    size_bytes: int
    only: bool
    hard: bool = False

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

    def followed_by(self, other: Compacted) -> Compacted:
        """What two did, one after the other."""
        return Compacted(
            self.packs_removed + other.packs_removed,
            self.packs_written + other.packs_written,
            self.bytes_before,
            other.bytes_after,
            other.waiting,
            self.unread + other.unread,
            other.busy,
        )


# -- what to do ------------------------------------------------------------------------------


def plan(repository: Repository, names: Collection[str] | None = None, *, hard: bool = False) -> Plan:
    """Look at every pack, writing nothing.

    Parameters
    ----------
    names : collection of str, optional
        Runs whose packs are meant; else all.
    hard : bool
        Look for cold packs that the hardest setting makes smaller than they are, and for nothing else.

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
        live.wider = known_rounded(repository, live)
        if any(_is_raw(repository, pack_id) for pack_id in sizes):
            live.wider |= find_rounded(repository, live)
    meant = sizes.keys() - fixed if names is None else live.wanted & sizes.keys() - fixed
    found = [_looked_at(repository, live, pack_id, sizes[pack_id]) for pack_id in sorted(meant)]
    choose = _hardened if hard else _chosen
    chosen = choose(repository, live, [v for v in found if v is not None and v.digests])
    chosen.sort(key=lambda v: max(live.needs[d].place for d in v.digests))
    return Plan(repository, live, chosen, sum(sizes.values()), only=names is not None, hard=hard)


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
    stored_bytes = _expected_bytes(entries, live)
    return Victim(
        pack_id,
        size_bytes,
        [e.digest for e in alive],
        raw_bytes=sum(e.raw_bytes for e in alive),
        stored_bytes=stored_bytes,
        dead_bytes=max(0, sum(e.stored_bytes for e in entries) - stored_bytes),
    )


def _expected_bytes(entries: list[PackEntry], live: Live) -> int:
    """What its chunks that are alive will take, once those are gone that only they need.

    Where the chunk at the bottom of a family goes, another takes its place, about as large.
    """
    roots: dict[bytes, PackEntry] = {}
    bottoms = {entry.digest for entry in entries} & live.needs.keys()
    expected = 0.0
    for entry in entries:
        root = roots[entry.digest] = next((roots[d] for d in split_digests(entry.bases)), entry)
        if entry.digest in live.needs:
            stays = root.digest in bottoms
            bottoms.add(root.digest)
            expected += (
                entry.stored_bytes if stays else root.stored_bytes * entry.raw_bytes / max(root.raw_bytes, 1)
            )
    return round(expected)


def _chosen(repository: Repository, live: Live, found: list[Victim]) -> list[Victim]:
    """Those worth it: much of them dead, or compressible, or small and not alone."""
    sampled, pairs = _sampled(repository, live, found)
    by_pack = {v.pack: v for v in sampled}
    chosen = {v.pack for v in sampled if v.is_worth}
    for pack, other, gain_bytes in pairs:
        if gain_bytes > LEAST_GAIN * (by_pack[pack].stored_bytes + by_pack[other].stored_bytes):
            chosen |= {pack, other}
    small = {v.pack for v in sampled if v.size_bytes < SMALL_BYTES}
    chosen |= small if len(small | chosen) > 1 and small - chosen else set()
    for pack, other, gain_bytes in pairs:
        if {pack, other} <= chosen:
            before = by_pack[pack]
            by_pack[pack] = msgspec.structs.replace(before, gain_bytes=before.gain_bytes + gain_bytes)
    return [by_pack[p] for p in chosen]


def _hardened(repository: Repository, live: Live, found: list[Victim]) -> list[Victim]:
    """Those that are cold, and shrink further as a sample tells."""
    gains = cold.gains(repository, live, {v.pack: v.digests for v in found})
    return [
        msgspec.structs.replace(victim, gain_bytes=round(gains[victim.pack] * victim.stored_bytes))
        for victim in found
        if gains.get(victim.pack, 0.0) > LEAST_HARD_GAIN
    ]


def _sampled(
    repository: Repository, live: Live, found: list[Victim]
) -> tuple[list[Victim], list[tuple[str, str, int]]]:
    """Expect of packs that were never encoded what a few of their chunks give, alone and by others."""
    sampler = Sampler(repository, live, {v.pack: v.digests for v in found})
    sampled, pairs = [], []
    for victim in found:
        gains = sampler.gains(victim.pack) if _is_raw(repository, victim.pack) else Gains()
        alone_bytes = round(gains.alone * victim.raw_bytes)
        sampled.append(msgspec.structs.replace(victim, gain_bytes=alone_bytes))
        pairs += [(victim.pack, p, round(gain * victim.raw_bytes)) for p, gain in gains.beside.items()]
    return sampled, pairs


def _is_raw(repository: Repository, pack_id: str) -> bool:
    return all(entry.codec == RAW for entry in repository.index.entries(pack_id))


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
    for batch in _batches(planned):
        packs = {victim.pack for victim in batch}
        digests = {digest for victim in batch for digest in victim.digests}
        with repository.holding(saving=True):
            rewriting = Rewriting(repository, planned.live, packs, digests, advance, hard=planned.hard)
            result.packs_written += len(rewriting.run())
            result.unread += rewriting.unread
        _count(result, retention.remove_packs(repository, packs, wait_seconds=wait_seconds))
    if not planned.only:
        _count(result, retention.sweep(repository, wait_seconds=wait_seconds))
    result.bytes_after = sum(_pack_sizes(repository).values())
    return result


def _batches(planned: Plan) -> Iterator[list[Victim]]:
    live, index = planned.live, planned.repository.index
    by_pack = {victim.pack: victim for victim in reversed(planned.victims)}
    homes = {digest: victim.pack for victim in planned.victims for digest in victim.digests}
    sizes = {e.digest: e.raw_bytes for pack in by_pack for e in index.entries(pack)}
    near = {d: (n,) for d, n in live.newer.items()} | live.wider
    owners = {p: max(live.needs[d].owner for d in v.digests) for p, v in by_pack.items()}
    packs = [Pack(p, v.raw_bytes, owners[p]) for p, v in by_pack.items()]
    for batch in batched(packs, make_links(homes, near, sizes), BATCH_BYTES):
        yield [by_pack[pack] for pack in batch]


def _count(result: Compacted, pruned: retention.Pruned) -> None:
    result.packs_removed += len(pruned.packs)
    result.waiting = pruned.waiting
    result.busy |= pruned.busy
