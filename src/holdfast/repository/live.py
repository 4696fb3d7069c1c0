"""What the repository's checkpoints need, chunk by chunk: what a compaction must carry over."""

from __future__ import annotations

from collections.abc import Collection, Iterator
from typing import NamedTuple

import msgspec

from holdfast.domain.manifest import Manifest, split_digests
from holdfast.domain.names import CheckpointId
from holdfast.errors import DamagedError, NotFoundError
from holdfast.repository.collecting import collector_paused
from holdfast.repository.repository import Repository
from holdfast.repository.retention import packs_of
from holdfast.repository.run import Run


class Need(NamedTuple):
    """Why a chunk is kept.

    Attributes
    ----------
    place : int
        Orders chunks as their newest checkpoints name them.
    owner : int
        That checkpoint's number: chunks of one owner are likely to go together.
    dtype : str
        Of a tensor that holds it.
    """

    place: int
    owner: int
    dtype: str


class Seen(msgspec.Struct):
    """A checkpoint whose manifest was read, and the packs that its hint names."""

    run: Run
    id: CheckpointId
    hints: set[str]


class Live:
    """Every chunk that a present manifest names.

    Attributes
    ----------
    needs : dict[bytes, Need]
    newer : dict[bytes, bytes]
        Digest → that of the same tensor's same chunk in the run's next checkpoint that has it.
    wider : dict[bytes, tuple[bytes, ...]]
        Digest → those of the chunks whose rounding it is, as far as a sample tells; see `deriving`.
    wanted : set[str]
        Packs that the runs asked for rely on.
    pinned : set[str]
        Packs of checkpoints whose manifest is damaged: nobody knows which chunks they need.
    checkpoints : list[Seen]

    Raises
    ------
    DamagedError
        A manifest cannot be read, and nobody knows which packs it needs.
    """

    @collector_paused()
    def __init__(self, repository: Repository, names: Collection[str] | None = None) -> None:
        self.needs: dict[bytes, Need] = {}
        self.newer: dict[bytes, bytes] = {}
        self.wider: dict[bytes, tuple[bytes, ...]] = {}
        self.wanted: set[str] = set()
        self.pinned: set[str] = set()
        self.checkpoints: list[Seen] = []
        self._place = 0
        for run in repository.runs():
            self._before: dict[_Spot, bytes] = {}
            for checkpoint in run.all_checkpoints():
                self._look_at(run, checkpoint, is_wanted=names is None or run.name in names)

    def _look_at(self, run: Run, checkpoint: CheckpointId, *, is_wanted: bool) -> None:
        try:
            manifest = run.manifest(checkpoint)
        except NotFoundError:
            return  # removed since it was listed
        except DamagedError:
            self.pinned |= packs_of(run, checkpoint)
            return
        packs = packs_of(run, checkpoint, digests=manifest.digests())
        self.wanted |= packs if is_wanted else set()
        self.checkpoints.append(Seen(run, checkpoint, set(run.hints(checkpoint))))
        for spot, digest in _chunks(manifest):
            self._place += 1
            self.needs[digest] = Need(self._place, len(self.checkpoints), spot.dtype)
            before = self._before.get(spot, digest)
            self._before[spot] = digest
            if before != digest:
                self.newer[before] = digest


class _Spot(NamedTuple):
    """Where in a checkpoint a chunk belongs."""

    tensor: str
    dtype: str
    number: int


def _chunks(manifest: Manifest) -> Iterator[tuple[_Spot, bytes]]:
    for name, entry in manifest.tensors.items():
        digests = (d for shard in entry.shards for d in split_digests(shard.chunks))
        for number, digest in enumerate(digests):
            yield _Spot(name, entry.dtype, number), digest
