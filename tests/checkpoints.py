"""Small checkpoints for tests of the repository: states as bytes, saved and read back exactly."""

from __future__ import annotations

import random
from collections.abc import Iterable, Mapping

import numpy as np
import numpy.typing as npt

from holdfast.domain.names import AttemptId, CheckpointId
from holdfast.domain.progress import Progress
from holdfast.domain.tensors import TensorRef, TensorSpec
from holdfast.repository.commit import Committed, Draft, commit
from holdfast.repository.reading import read_tensors
from holdfast.repository.repository import MIN_CHUNK_BYTES, Repository
from holdfast.repository.retention import Pruned, remove
from holdfast.repository.run import Run
from holdfast.storage.base import Storage

State = Mapping[str, bytes]
CHUNK_BYTES = MIN_CHUNK_BYTES


class BytesTensor:
    """A ``uint8`` tensor, both source and target."""

    def __init__(self, data: bytes | int) -> None:
        self.data = bytearray(data)
        self.spec = TensorSpec("uint8", (len(self.data),))
        self.committed = False

    def read(self) -> npt.NDArray[np.uint8]:
        return np.frombuffer(bytes(self.data), np.uint8)

    def buffer(self) -> npt.NDArray[np.uint8]:
        return np.frombuffer(self.data, np.uint8)

    def commit(self) -> None:
        self.committed = True


def make_state(step: int, *, seed: str = "", frozen: str = "frozen") -> dict[str, bytes]:
    """Tensors of several chunks, shared by all steps (dedup), drifting, a tied pair, tiny and empty ones."""
    changing = random.Random(f"{seed}/{step}")
    same = random.Random(frozen)
    tied = changing.randbytes(5000)
    return {
        "weight": changing.randbytes(2 * CHUNK_BYTES + 7),
        "frozen": same.randbytes(CHUNK_BYTES + 100),
        "drift": drifting(step, CHUNK_BYTES),
        "tied.a": tied,
        "tied.b": tied,
        "scalar": changing.randbytes(4),
        "empty": b"",
    }


def drifting(step: int, size: int = 3 * CHUNK_BYTES) -> bytes:
    """Noise that each step changes a little, in every chunk: only another step's makes it smaller."""
    data = bytearray(random.Random("drift").randbytes(size))
    for at in range(100, size - 8, CHUNK_BYTES):
        data[at : at + 8] = step.to_bytes(8, "big")
    return bytes(data)


def make_repository(storage: Storage) -> Repository:
    return Repository.create(storage, chunk_bytes=CHUNK_BYTES)


def draft(
    attempt: AttemptId, sequence: int, step: int, state: State, parent: CheckpointId | None = None
) -> Draft:
    return Draft(
        attempt=attempt,
        sequence=sequence,
        progress=Progress(step=step, samples=step * 8),
        reason="test",
        sources={name: BytesTensor(data) for name, data in state.items()},
        tree={name: TensorRef(name, "numpy") for name in state},
        metrics={"loss": 1.0 / (step + 1)},
        parent=parent,
    )


def save(
    run: Run,
    attempt: AttemptId,
    sequence: int,
    step: int,
    state: State | None = None,
    parent: CheckpointId | None = None,
) -> Committed:
    return commit(run, draft(attempt, sequence, step, state or make_state(step), parent))


def begin(run: Run, base: CheckpointId | None = None, *, resume: bool = True) -> AttemptId:
    """Open an attempt based on the latest checkpoint (or ``base``)."""
    attempt = run.begin_attempt()
    run.record_base(attempt, base or (run.latest() if resume else None))
    return attempt


def read(run: Run, checkpoint: CheckpointId) -> dict[str, bytes]:
    """Everything of a checkpoint, through the verified way."""
    with run.repository.holding():
        manifest = run.manifest(checkpoint)
        targets = {name: BytesTensor(spec.size_bytes) for name, spec in manifest.specs().items()}
        what = f"{run.name}@{checkpoint.step}"
        wanted = list(targets.items())
        read_tensors(run.repository.reader, manifest, run.hints(checkpoint), wanted, what)
    assert all(target.committed for target in targets.values())
    return {name: bytes(target.data) for name, target in targets.items()}


def assert_restores(run: Run, expected: Mapping[CheckpointId, State]) -> None:
    for checkpoint, state in expected.items():
        assert read(run, checkpoint) == state, f"{checkpoint} came back with other bytes"


def prune(
    run: Run, keep: int, attempt: AttemptId, *, sweep: bool = False, wait_seconds: float = 0.0
) -> Pruned:
    """Keep the last so many on the run's line, as the highest attempt does after a commit."""
    line = run.lineage()
    drop = [c for c in run.checkpoints() if c not in line[:keep]]
    return remove(
        run,
        drop,
        may_delete=lambda c: run.is_highest(attempt) and c not in run.tags(strict=True).values(),
        wait_seconds=wait_seconds,
        sweep=sweep,
    )


def keys(storage: Storage, folder: str = "") -> list[str]:
    return list(storage.list(folder))


def packs(storage: Storage) -> set[str]:
    return set(storage.list("packs/"))


def orphans(repository: Repository) -> set[str]:
    """Packs that hold nothing that a manifest names, hints and condemnations of nothing."""
    fresh = Repository.open(repository.storage)
    fresh.index.load_all()
    needed: set[bytes] = set()
    names: set[str] = set()
    for run in fresh.runs():
        for checkpoint in run.all_checkpoints():
            names.add(str(checkpoint))
            needed |= run.manifest(checkpoint).digests()
    unneeded = {p for p in fresh.index.packs() if not any(e.digest in needed for e in fresh.index.entries(p))}
    records: Iterable[str] = (k for run in fresh.runs() for k in keys(fresh.storage, run.layout.hints))
    stale = {k for k in records if k.rpartition("/")[2].removesuffix(".json") not in names}
    return unneeded | stale | set(fresh.condemned_packs())
