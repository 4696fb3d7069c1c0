"""The parts of a checkpoint of several ranks, on their way to rank 0, which publishes it.

Each rank makes its own state durable and writes a part: a manifest of that alone, in a folder that no listing
of checkpoints sees. Rank 0's part comes first, and no other rank writes a chunk that it names. Once all parts
are there rank 0 makes one manifest of them, and that is the commit. Parts are of no use after it.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import suppress

import msgspec

from holdfast.domain.manifest import Details, Manifest
from holdfast.domain.manifest_file import decode_manifest, encode_manifest
from holdfast.domain.names import CheckpointId
from holdfast.domain.ranks import joined
from holdfast.errors import DamagedError, RankError, StorageError
from holdfast.repository import records
from holdfast.repository.commit import Draft, Gather, described
from holdfast.repository.run import Run
from holdfast.repository.writing import PackWriter, Written


def put_part(run: Run, rank: int, manifest: Manifest, new_packs: Sequence[str]) -> CheckpointId:
    """Hand over what a rank has, whose chunks are durable; returns the part's name."""
    name, data = encode_manifest(manifest)
    packs = records.encode(records.HintRecord(sorted(new_packs)))
    run.storage.put(run.layout.part_packs(name, rank), [packs])
    run.storage.put(run.layout.part(name, rank), [data])
    return name


def read_part(run: Run, rank: int, name: CheckpointId) -> Manifest:
    """Read and verify a part; raises as `Run.manifest` does."""
    key = run.layout.part(name, rank)
    try:
        return decode_manifest(run.storage.get(key), name)
    except DamagedError:
        return decode_manifest(run.storage.get(key), name)


def write_part(run: Run, draft: Draft, details: Details, rank: int, first: CheckpointId) -> CheckpointId:
    """Make durable what this rank has that rank 0 has not, and hand it over.

    Rank 0 holds the repository meanwhile, for all.

    Parameters
    ----------
    first : CheckpointId
        The name of rank 0's part.

    Raises
    ------
    RankError
        This rank is elsewhere in its training.
    StorageError
    """
    if (draft.attempt, draft.progress.step) != (first.attempt, first.step):
        raise RankError(f"It is at step {draft.progress.step} where rank 0 is at step {first.step}.")
    known = read_part(run, 0, first).digests()
    draft = msgspec.structs.replace(draft, sequence=first.sequence)  # it may have left out saves of its own
    writer = PackWriter(run.storage, run.repository.chunk_bytes, lambda d: "" if d in known else None)
    written = writer.write(draft.sources, {})
    return put_part(run, rank, described(run, draft, details, written), list(written.new_packs))


def join_parts(
    run: Run, first: Manifest, written: Written, gather: Gather, others: Mapping[int, CheckpointId]
) -> tuple[Manifest, Written, Gather]:
    """One manifest of rank 0's and all other parts, and what it relies on: a `commit.Join`.

    Raises
    ------
    DamagedError, StorageError, NotFoundError
        A part cannot be had.
    """
    for rank, name in others.items():
        _check_same_save(rank, name, first)
    parts = [first, *(read_part(run, rank, name) for rank, name in sorted(others.items()))]
    whole = joined(parts)
    packs = {p for rank, name in others.items() for p in _packs(run, rank, name)}

    def of_all(own: Written) -> Written:
        tensors = {**whole.tensors, **own.tensors}
        return msgspec.structs.replace(own, tensors=tensors, used_packs=own.used_packs | packs)

    def again(lost: frozenset[str]) -> Written:
        if lost & packs:
            raise StorageError(
                f"Packs that another rank wrote for {run.name}@{whole.summary.progress.step} are going.",
                do="The next save writes them anew; see that only one process prunes this repository.",
            )
        return of_all(gather(lost))

    return whole, of_all(written), again


def _check_same_save(rank: int, name: CheckpointId, first: Manifest) -> None:
    """Never a mixture: a rank that was late may hand over what it made for the save before."""
    mine = first.summary
    if name.identity != (mine.attempt, mine.sequence, mine.progress.step, mine.kind):
        raise StorageError(f"Rank {rank} handed over its part of another save, {name}.")


def _packs(run: Run, rank: int, name: CheckpointId) -> list[str]:
    return records.read(run.storage, run.layout.part_packs(name, rank), records.HintRecord).packs


def remove_parts(run: Run, names: Mapping[int, CheckpointId]) -> None:
    """Take parts away whose checkpoint was published, or never will be; what stays, a prune takes."""
    for rank, name in names.items():
        with suppress(StorageError):
            run.storage.delete(run.layout.part(name, rank))
            run.storage.delete(run.layout.part_packs(name, rank))
