"""What a run, a checkpoint and a tensor cost, chunk by chunk; and what removing them frees.

`space` counts whole packs, of all checkpoints at once; this looks closely at a few.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Iterable, Iterator, Sequence
from contextlib import suppress

import msgspec

from holdfast.domain.manifest import Manifest, TensorEntry, split_digests
from holdfast.domain.names import CheckpointId
from holdfast.errors import DamagedError, NotFoundError
from holdfast.repository import layout
from holdfast.repository.index import present_packs
from holdfast.repository.moving import files_beside
from holdfast.repository.repository import Repository
from holdfast.repository.retention import needed_packs
from holdfast.repository.run import Run
from holdfast.storage.sealed import at_rest


class Cost(msgspec.Struct, frozen=True):
    """Bytes of one tensor, or of several.

    Attributes
    ----------
    referenced_bytes : int
        Of the tensors, each counted as often as it was saved.
    stored_bytes : int
        Of their chunks as they rest in packs, each counted once.
    only_bytes : int
        Of those chunks that nothing else in the repository needs.
    """

    referenced_bytes: int
    stored_bytes: int
    only_bytes: int


class Costs:
    """Some checkpoints of a run, looked at closely.

    Raises
    ------
    DamagedError
        One of their manifests cannot be read.
    """

    def __init__(self, run: Run, checkpoints: Sequence[CheckpointId]) -> None:
        self._manifests = [run.manifest(c) for c in checkpoints]
        self._index = run.repository.index
        self._index.load_all()
        mine = {(run.name, c) for c in checkpoints}
        self._elsewhere = {d for manifest in _others(run.repository, mine) for d in manifest.digests()}

    def together(self) -> Cost:
        """What all of them cost."""
        entries = [entry for manifest in self._manifests for entry in manifest.tensors.values()]
        return self._cost(entries, self._elsewhere)

    def by_tensor(self) -> dict[str, Cost]:
        """What each tensor of the first checkpoint costs."""
        tensors = self._manifests[0].tensors
        users = Counter(digest for entry in tensors.values() for digest in set(_digests(entry)))
        shared = self._elsewhere | {digest for digest, count in users.items() if count > 1}
        return {name: self._cost([entry], shared) for name, entry in tensors.items()}

    def _cost(self, entries: Iterable[TensorEntry], elsewhere: Collection[bytes]) -> Cost:
        entries = list(entries)
        sizes = {d: self._stored_bytes(d) for entry in entries for d in _digests(entry)}
        return Cost(
            referenced_bytes=sum(entry.spec.size_bytes for entry in entries),
            stored_bytes=sum(sizes.values()),
            only_bytes=sum(size for digest, size in sizes.items() if digest not in elsewhere),
        )

    def _stored_bytes(self, digest: bytes) -> int:
        copies = self._index.last_copies(digest)
        return copies[0].entry.stored_bytes if copies else 0


def _digests(entry: TensorEntry) -> list[bytes]:
    return [digest for shard in entry.shards for digest in split_digests(shard.chunks)]


def _others(repository: Repository, mine: Collection[tuple[str, CheckpointId]]) -> Iterator[Manifest]:
    for run in repository.runs():
        for checkpoint in run.all_checkpoints():
            if (run.name, checkpoint) not in mine:
                with suppress(DamagedError, NotFoundError):  # what it needs, nobody knows
                    yield run.manifest(checkpoint)


def freed_bytes(run: Run, drop: Collection[CheckpointId], *, whole: bool = False) -> int:
    """Bytes that removing these checkpoints, and a prune after it, will free.

    Computed as a prune does it, so packs that hold something of other checkpoints too do not count.

    Parameters
    ----------
    whole : bool
        The run goes with all that is recorded of it.

    Raises
    ------
    DamagedError
        A manifest cannot be read, so nothing could be removed.
    """
    storage = run.storage
    gone = {(run.name, c) for c in drop}
    needed = needed_packs(Repository.open(storage))
    left = needed_packs(Repository.open(storage), without=gone)
    free = (needed - left).intersection(present_packs(storage))
    keys = [layout.pack(pack_id) for pack_id in free]
    keys += [run.layout.checkpoint(c) for c in drop]
    keys += files_beside(run) if whole else _records_of(run, drop)
    return sum(stat.size_bytes for key in keys if (stat := at_rest(storage).stat(key)) is not None)


def _records_of(run: Run, drop: Collection[CheckpointId]) -> list[str]:
    """What goes with these checkpoints, beside their manifests."""
    tags = [run.layout.tag(name) for name, checkpoint in run.tags().items() if checkpoint in drop]
    return tags + [
        key for c in drop for key in (run.layout.hint(c), run.layout.condemn(c), run.layout.signature(c))
    ]
