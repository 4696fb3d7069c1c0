"""Removal: condemn, grace, mark again, delete; manifests first, their packs after.

Where the storage has kernel locks the grace is nothing, because savers and readers hold
the lock that removal excludes. Any error while listing or reading means nothing is deleted.
"""

from __future__ import annotations

import errno
from collections.abc import Callable, Collection, Iterable, Sequence
from functools import partial

import msgspec

from holdfast.domain.names import CheckpointId
from holdfast.errors import DamagedError, StorageError
from holdfast.repository import layout, records
from holdfast.repository.collecting import collector_paused
from holdfast.repository.index import present_packs
from holdfast.repository.repository import Repository
from holdfast.repository.run import Run
from holdfast.storage.base import KeepsTemporaries
from holdfast.storage.sealed import at_rest

FULL = (errno.ENOSPC, errno.EDQUOT)
"""Errors of a storage without room."""
TEMPORARY_SECONDS = 60.0
GRACE_SECONDS = 6 * 3600.0
"""Longer than any save may take, where no kernel lock protects it."""


class Pruned(msgspec.Struct):
    """What a removal did, or (``dry_run``) would do.

    Attributes
    ----------
    checkpoints : list[CheckpointId]
        Manifests deleted.
    packs : list[str]
        Packs deleted.
    freed_bytes : int
        Bytes of these packs.
    waiting : int
        Things condemned whose grace has not passed yet.
    busy : bool
        Nothing was done, because another process was saving, reading or removing.
    """

    checkpoints: list[CheckpointId] = []
    packs: list[str] = []
    freed_bytes: int = 0
    waiting: int = 0
    busy: bool = False


def remove(
    run: Run,
    drop: Sequence[CheckpointId],
    *,
    may_delete: Callable[[CheckpointId], bool],
    resting_on: Collection[CheckpointId] = (),
    wait_seconds: float = 5.0,
    sweep: bool = False,
) -> Pruned:
    """Remove checkpoints of a run, then the packs that nothing references any more.

    Parameters
    ----------
    run : Run
    drop : sequence of CheckpointId
    may_delete : callable
        Asked again right before each deletion.
    resting_on : collection of CheckpointId
        Those because of which the others may go: if one is gone by now, or rejected, nothing is done.
    wait_seconds : float
        How long to wait for savers and readers to finish.
    sweep : bool
        Look at every pack of the repository, not only at those set free now: finds what
        killed saves left behind.
    """
    with run.repository.excluding(wait_seconds) as held:
        if not held or not _there(run, resting_on):
            return Pruned(busy=True)
        removal = _Removal(run.repository)
        freed = removal.manifests(run, drop, may_delete)
        removal.packs(None if sweep else freed)
        if sweep:
            removal.leavings()
        return removal.result


def _there(run: Run, checkpoints: Collection[CheckpointId]) -> bool:
    return set(checkpoints) <= set(run.checkpoints()) and run.rejected().isdisjoint(map(str, checkpoints))


def sweep(repository: Repository, *, wait_seconds: float = 5.0, dry_run: bool = False) -> Pruned:
    """Remove every pack and record that no manifest references, such as those of killed saves."""
    with repository.excluding(wait_seconds) as held:
        if not held:
            return Pruned(busy=True)
        removal = _Removal(repository, dry_run=dry_run)
        removal.packs(None)
        removal.leavings()
        return removal.result


def finish(repository: Repository, *, wait_seconds: float = 5.0) -> Pruned:
    """Delete checkpoints of all runs that were condemned before: who did that may never come again."""
    with repository.excluding(wait_seconds) as held:
        if not held:
            return Pruned(busy=True)
        removal = _Removal(repository)
        for run in repository.runs():
            if run.condemned():
                removal.manifests(run, (), partial(_is_let_go, run))
        return removal.result


def remove_packs(repository: Repository, packs: set[str], *, wait_seconds: float = 5.0) -> Pruned:
    """Remove those of these packs that no manifest needs, as marked under the lock."""
    with repository.excluding(wait_seconds) as held:
        if not held:
            return Pruned(busy=True)
        removal = _Removal(repository)
        removal.packs(packs)
        return removal.result


class _Removal:
    def __init__(self, repository: Repository, *, dry_run: bool = False) -> None:
        self._repository = repository
        self._storage = repository.storage
        self._grace_seconds = 0.0 if self._storage.exclusive_locks else GRACE_SECONDS
        self._dry_run = dry_run
        self.result = Pruned()

    # -- manifests ---------------------------------------------------------------------

    def manifests(
        self, run: Run, drop: Iterable[CheckpointId], may_delete: Callable[[CheckpointId], bool]
    ) -> set[str]:
        """Condemn and, once their grace is over, delete; return packs that may have become free."""
        freed: set[str] = set()
        run.tags(strict=True)
        self._learn_present()
        present = set(run.all_checkpoints())
        condemned = run.condemned()
        unfinished = {c for c in present if str(c) in condemned}
        for checkpoint in sorted({*drop} & present | unfinished, key=lambda c: c.order):
            if not may_delete(checkpoint):
                continue
            packs = packs_of(run, checkpoint)
            if not self._due(run.layout.condemn(checkpoint), str(checkpoint)):
                continue
            if not may_delete(checkpoint):  # it may have been tagged, or outlived its attempt, meanwhile
                continue
            self._storage.delete(run.layout.checkpoint(checkpoint))
            self._storage.delete(run.layout.signature(checkpoint))
            self._storage.delete(run.layout.hint(checkpoint))
            self._storage.delete(run.layout.condemn(checkpoint))
            self._repository.marks.pop((run.name, str(checkpoint)), None)
            freed |= packs
            self.result.checkpoints.append(checkpoint)
        return freed

    def _due(self, record_key: str, name: str) -> bool:
        """Condemn, if it is not yet; whether the grace since then has passed."""
        now = self._storage.now_seconds()
        try:
            self._storage.put_if_absent(record_key, records.encode(records.CondemnedRecord(name, now)))
        except StorageError as error:
            # On a full disk removal must work of all things; under the lock it needs no record.
            if self._grace_seconds == 0.0 and error.errno in FULL:
                return True
            raise
        stat = self._storage.stat(record_key)
        due = stat is not None and now - stat.modified_seconds >= self._grace_seconds
        if not due and self._grace_seconds == 0.0:
            due = stat is not None  # a clock that ran backwards does not matter under the lock
        self.result.waiting += not due
        return due

    # -- packs -------------------------------------------------------------------------

    def packs(self, candidates: set[str] | None) -> None:
        """Delete packs that no manifest needs; looks at ``candidates``, or with None at all.

        Packs that this process relied on are looked at again each time: the last checkpoint
        that needed one may have been another run's, which had a copy of its own.
        """
        condemned = set(self._repository.condemned_packs())
        present = self._learn_present()
        needed = needed_packs(self._repository)
        for pack_id in sorted(condemned & needed):
            self._pardon(pack_id)
        own = self._repository.dependable & present
        looked_at = present if candidates is None else candidates | own
        for pack_id in sorted((looked_at | condemned) - needed):
            self._pack(pack_id)

    def _learn_present(self) -> set[str]:
        """Unlearn packs that others have deleted, or a newer copy of their chunks would seem unneeded."""
        present = set(present_packs(self._storage))
        self._repository.index.retain(present)
        stale = [key for key, packs in self._repository.marks.items() if not packs <= present]
        for key in stale:
            del self._repository.marks[key]
        return present

    def _pack(self, pack_id: str) -> None:
        stat = at_rest(self._storage).stat(layout.pack(pack_id))
        if stat is None:
            self._storage.delete(layout.condemned_pack(pack_id))
            self._repository.index.forget(pack_id)
            return
        young = self._storage.now_seconds() - stat.modified_seconds < self._grace_seconds
        if young and not self._storage.exclusive_locks:  # perhaps of a save that is still under way
            self.result.waiting += self._storage.stat(layout.condemned_pack(pack_id)) is not None
            return
        if pack_id in self._repository.index.unreadable:
            return  # who knows what it holds: 'repair' decides
        if not self._dry_run:
            if not self._due(layout.condemned_pack(pack_id), pack_id):
                return
            self._storage.delete(layout.pack(pack_id))
            self._storage.delete(layout.condemned_pack(pack_id))
            self._repository.index.forget(pack_id)
            self._repository.dependable.discard(pack_id)
        self.result.packs.append(pack_id)
        self.result.freed_bytes += stat.size_bytes

    def _pardon(self, pack_id: str) -> None:
        if not self._dry_run:
            self._storage.delete(layout.condemned_pack(pack_id))

    # -- the rest ----------------------------------------------------------------------

    def leavings(self) -> None:
        """Delete hints and condemnations whose manifest is gone or never came, parts, and temporaries."""
        resting = at_rest(self._storage)
        if isinstance(resting, KeepsTemporaries) and not self._dry_run:
            resting.sweep_temporaries(older_than_seconds=TEMPORARY_SECONDS)
        for run in self._repository.runs() if not self._dry_run else []:
            present = {str(c) for c in run.all_checkpoints()}
            for key in _beside(run):
                name = key.rpartition("/")[2].rpartition(".")[0]
                if name not in present and self._is_old(key):
                    self._storage.delete(key)

    def _is_old(self, key: str) -> bool:
        stat = self._storage.stat(key)
        age_seconds = self._storage.now_seconds() - stat.modified_seconds if stat is not None else 0.0
        return self._grace_seconds == 0.0 or age_seconds >= self._grace_seconds


def _is_let_go(run: Run, checkpoint: CheckpointId) -> bool:
    """Whether it is neither tagged nor what the newest launch starts from, which has saved nothing yet."""
    head = run.head()
    own = [c for c in run.checkpoints() if head is not None and c.attempt == head.id and c.kind == "full"]
    if head is not None and head.base == checkpoint and not own:
        return False
    return checkpoint not in run.tags(strict=True).values()


def _beside(run: Run) -> list[str]:
    """What accompanies manifests: hints, condemnations, signatures; and parts, which are of none for long."""
    signed = (key for key in run.storage.list(run.layout.checkpoints) if key.endswith(".signature"))
    folders = (run.layout.hints, run.layout.condemned, run.layout.parts)
    return [*(key for folder in folders for key in run.keys_in(folder)), *signed]


@collector_paused()
def needed_packs(repository: Repository, without: Collection[tuple[str, CheckpointId]] = ()) -> set[str]:
    """Packs that at least one present manifest needs, condemned manifests included.

    Parameters
    ----------
    without : collection
        Checkpoints, each with its run's name, to be thought away.

    Raises
    ------
    DamagedError
        A manifest cannot be read, so nobody knows what it needs; or a folder may be a run's.
    """
    condemned = repository.condemned_packs().keys()
    return {
        pack_id
        for run in repository.every_run()
        for checkpoint in run.all_checkpoints()
        if (run.name, checkpoint) not in without
        for pack_id in packs_of(run, checkpoint, condemned)
    }


def packs_of(
    run: Run,
    checkpoint: CheckpointId,
    condemned: Collection[str] = (),
    digests: set[bytes] | None = None,
) -> frozenset[str]:
    """The packs that together hold one copy of each of its chunks; these are read if not given.

    Of several copies the one in a pack that is not condemned counts, then the smallest
    pack name, so that two markers choose alike.
    """
    marks = run.repository.marks
    key = (run.name, str(checkpoint))
    if key not in marks or not marks[key].isdisjoint(condemned):
        marks[key] = _resolve(run, checkpoint, condemned, digests)
    return marks[key]


def _resolve(
    run: Run, checkpoint: CheckpointId, condemned: Collection[str], digests: set[bytes] | None
) -> frozenset[str]:
    hints = run.hints(checkpoint)
    try:
        digests = run.needed_chunks(checkpoint) if digests is None else digests
    except DamagedError as error:
        if hints:
            return frozenset(hints)  # it may be salvaged or mended one day
        raise DamagedError(
            f"{error.what} Nobody knows which packs it needs, so nothing was deleted.",
            do=f"'holdfast repair' or 'holdfast rm {run.name}@{checkpoint.step}' settles it.",
        ) from error
    index = run.repository.index
    index.cover(digests, hints)
    if condemned:
        index.load(hints)  # they may name the pack that takes a condemned one's place
        if not index.holders(digests, condemned).isdisjoint(condemned):
            index.load_all()  # or not yet, if the checkpoint came while that was written
    return frozenset(index.holders(digests, condemned))
