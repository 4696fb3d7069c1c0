"""What a sync has to bring: what the source has and the destination lacks, looked at without writing."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Sequence
from contextlib import suppress

import msgspec

from holdfast.domain.keep_rules import KeepRule
from holdfast.domain.names import CheckpointId
from holdfast.errors import DamagedError, NotFoundError
from holdfast.repository.chunks import ChunkReader
from holdfast.repository.pruning import best_of, kept_elsewhere
from holdfast.repository.repository import Repository
from holdfast.repository.retention import packs_of
from holdfast.repository.run import Run
from holdfast.repository.verify import UnrecordedIndex


class Route:
    """From one repository to another: what was learned of both on the way."""

    def __init__(self, source: Repository, target: Repository) -> None:
        self.source = source
        self.target = target
        self.copies = UnrecordedIndex(source.storage)
        self.reader = ChunkReader(source.storage, self.copies)
        self._knows_target = False

    def rely_on_target(self) -> None:
        """Learn, once, which packs of the destination may be relied on."""
        if not self._knows_target:
            rely_on_all(self.target)
            self._knows_target = True


def rely_on_all(repository: Repository) -> None:
    """Learn which packs the checkpoints of a repository need: these may be relied on."""
    condemned = repository.condemned_packs().keys()
    for run in repository.runs():
        for checkpoint in run.checkpoints():
            with suppress(DamagedError, NotFoundError):
                repository.dependable |= packs_of(run, checkpoint, condemned)


def missing(source: Run, target: Run | None, keep: KeepRule | None = None) -> list[CheckpointId]:
    """Checkpoints to bring, newest first; rejected ones stay where they are.

    Parameters
    ----------
    keep : KeepRule, optional
        That of the destination: what it would remove at once need not come.
    """
    there = {c.identity for c in target.all_checkpoints()} if target is not None else set()
    rejected = source.rejected()
    lacking = [c for c in source.checkpoints() if c.identity not in there and str(c) not in rejected]
    if keep is not None and lacking:
        kept = kept_elsewhere(source, target, keep)
        lacking = [c for c in lacking if c.identity in kept]
    return lacking[::-1]


def best_missing(source: Run, target: Run | None, keep: KeepRule | None) -> list[CheckpointId]:
    """Of those to bring the best that a rule names, if it names any, newest first."""
    lacking = missing(source, target) if keep is not None and keep.best else []
    named = best_of(source, keep) if keep is not None and lacking else set()
    return [c for c in lacking if str(c) in named]


class Planned(msgspec.Struct, frozen=True):
    """What a sync would do for a run.

    Attributes
    ----------
    checkpoints : int
        To be brought.
    lacking : dict[bytes, int]
        Chunks that no other run brings, and the bytes that they take up.
    """

    run: str
    checkpoints: int
    lacking: dict[bytes, int]

    @property
    def moved_bytes(self) -> int:
        return sum(self.lacking.values())


def plan(
    source: Repository,
    target: Repository | None,
    names: Sequence[str],
    *,
    latest: bool = False,
    keep: KeepRule | None = None,
) -> Iterator[Planned]:
    """Look at what each run would take, writing nothing; ``target`` is None where there is none yet."""
    met: set[bytes] = set()
    for name in names:
        run = source.run(name)
        there = target.run(name) if target is not None else None
        wanted = _latest_and_best(run, there, keep) if latest else missing(run, there, keep)
        if wanted and target is not None:
            rely_on_all(target)
        lacking: dict[bytes, int] = {}
        for checkpoint in wanted:
            with suppress(DamagedError, NotFoundError):
                lacking |= _lacking(run, checkpoint, target, met)
                met |= lacking.keys()
        yield Planned(name, len(wanted), lacking)


def _latest_and_best(source: Run, target: Run | None, keep: KeepRule | None) -> list[CheckpointId]:
    found = [*missing(source, target)[:1], *best_missing(source, target, keep)]
    return list(dict.fromkeys(found))


def _lacking(
    run: Run, checkpoint: CheckpointId, target: Repository | None, met: Collection[bytes]
) -> dict[bytes, int]:
    digests = run.manifest(checkpoint).digests().difference(met)
    if target is not None:
        digests = {d for d in digests if not any(c.pack in target.dependable for c in target.index.copies(d))}
    index = run.repository.index
    index.cover(digests, run.hints(checkpoint))
    return {d: copies[0].entry.stored_bytes for d in digests if (copies := index.last_copies(d))}
