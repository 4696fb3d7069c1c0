"""What checkpoints take up, and what deleting them would free."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Collection, Iterable
from contextlib import suppress

import msgspec

from holdfast.domain.names import CheckpointId
from holdfast.errors import DamagedError, NotFoundError
from holdfast.repository import layout
from holdfast.repository.collecting import collector_paused
from holdfast.repository.index import present_packs
from holdfast.repository.repository import Repository
from holdfast.repository.retention import packs_of
from holdfast.repository.run import Run
from holdfast.storage.sealed import at_rest


class Space(msgspec.Struct, frozen=True):
    """Space of a checkpoint, or of several together.

    Attributes
    ----------
    logical_bytes : int
        Of their tensors, each counted as often as it was saved.
    disk_bytes : int
        Of the packs and manifests that they need, shared ones included.
    unique_bytes : int
        Of those that nothing else needs: what deleting them would free.
    """

    logical_bytes: int = 0
    disk_bytes: int = 0
    unique_bytes: int = 0


class Survey:
    """Which packs every checkpoint of the repository needs, looked at once.

    Attributes
    ----------
    needs : dict
        (run, checkpoint) → packs; None where a damaged manifest tells nobody.
    pack_bytes : dict[str, int]
        Size of every pack that is present.
    """

    @collector_paused()
    def __init__(self, repository: Repository) -> None:
        self.pack_bytes = _pack_sizes(repository)
        self.needs: dict[tuple[str, CheckpointId], frozenset[str] | None] = {}
        self._manifest_bytes: dict[tuple[str, CheckpointId], int] = {}
        self._logical_bytes: dict[tuple[str, CheckpointId], int] = {}
        condemned = repository.condemned_packs().keys()
        for run in repository.runs():
            for checkpoint in run.all_checkpoints():
                self._look_at(run, checkpoint, condemned)
        self._users = Counter(p for packs in self.needs.values() for p in packs or ())

    def _look_at(self, run: Run, checkpoint: CheckpointId, condemned: Collection[str]) -> None:
        key = (run.name, checkpoint)
        stat = at_rest(run.storage).stat(run.layout.checkpoint(checkpoint))
        if stat is None:
            return
        try:
            needs = run.needs(checkpoint)
            self._logical_bytes[key] = needs.summary.size_bytes
            self.needs[key] = packs_of(run, checkpoint, condemned, needs.digests)
        except NotFoundError:
            return  # deleted since it was listed
        except DamagedError:
            self._look_at_damaged(run, checkpoint, condemned)
        self._manifest_bytes[key] = stat.size_bytes

    def _look_at_damaged(self, run: Run, checkpoint: CheckpointId, condemned: Collection[str]) -> None:
        key = (run.name, checkpoint)
        self.needs[key] = None
        with suppress(DamagedError, NotFoundError):
            self.needs[key] = packs_of(run, checkpoint, condemned)  # what its hint names
            self._logical_bytes[key] = run.summary(checkpoint).size_bytes

    def of(self, run: str, checkpoints: Iterable[CheckpointId]) -> Space:
        """Space of some checkpoints of a run together."""
        keys = [k for c in checkpoints if (k := (run, c)) in self.needs]
        users = Counter(p for k in keys for p in self.needs[k] or ())
        packs = {p: self.pack_bytes.get(p, 0) for p in users}
        manifests = sum(self._manifest_bytes[k] for k in keys)
        return Space(
            logical_bytes=sum(self._logical_bytes.get(k, 0) for k in keys),
            disk_bytes=sum(packs.values()) + manifests,
            unique_bytes=sum(n for p, n in packs.items() if users[p] == self._users[p]) + manifests,
        )

    def by_run(self) -> dict[str, list[CheckpointId]]:
        """The checkpoints looked at, of each run, in order of commits."""
        found: dict[str, list[CheckpointId]] = defaultdict(list)
        for run, checkpoint in self.needs:
            found[run].append(checkpoint)
        return dict(found)

    def whole(self) -> Space:
        """Everything that is there, orphans included."""
        manifests = sum(self._manifest_bytes.values())
        disk_bytes = sum(self.pack_bytes.values()) + manifests
        return Space(sum(self._logical_bytes.values()), disk_bytes, disk_bytes)

    def orphan_packs(self) -> set[str]:
        """Packs that no checkpoint needs, such as those of killed saves; 'prune' removes them."""
        return self.pack_bytes.keys() - self._users.keys()

    def orphan_bytes(self) -> int:
        return sum(self.pack_bytes[p] for p in self.orphan_packs())


def _pack_sizes(repository: Repository) -> dict[str, int]:
    sizes = {}
    for pack_id in present_packs(repository.storage):
        stat = at_rest(repository.storage).stat(layout.pack(pack_id))
        if stat is not None:
            sizes[pack_id] = stat.size_bytes
    return sizes
