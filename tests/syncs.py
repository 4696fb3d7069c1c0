"""A run to be brought elsewhere, and places to bring it to."""

from __future__ import annotations

from checkpoints import CHUNK_BYTES, begin, make_repository, make_state, save
from holdfast.domain.names import CheckpointId
from holdfast.repository.repository import Repository
from holdfast.repository.run import Run
from holdfast.repository.sync_plan import Route
from holdfast.repository.syncing import Synced, sync_run
from holdfast.storage.base import Storage
from holdfast.storage.memory import MemoryStorage


def make_run() -> Run:
    """Two attempts, the second rolled back to the first one's second checkpoint; a tag, a rejection."""
    made = make_repository(MemoryStorage()).run("digits")
    first = begin(made)
    a = [save(made, first, n, n * 100).id for n in (1, 2, 3)]
    made.record_end(first, "KeyboardInterrupt", 300, done=False)
    second = begin(made, a[1])
    b = [save(made, second, n, 250 + n * 100).id for n in (1, 2)]
    made.set_tag("paper", a[0])
    made.reject(b[1], "test")
    return made


def a_copy(run: Run, storage: Storage | None = None) -> Repository:
    """A destination as the command line makes it."""
    return Repository.create(
        storage or MemoryStorage(), chunk_bytes=run.repository.chunk_bytes, repository_id=run.repository.id
    )


def another(chunk_bytes: int = CHUNK_BYTES) -> Repository:
    """A destination with an id of its own."""
    return Repository.create(MemoryStorage(), chunk_bytes=chunk_bytes)


def synced(run: Run, target: Repository) -> Synced:
    """Sync with fresh eyes on both sides."""
    return sync_run(Route(Repository.open(run.storage), Repository.open(target.storage)), run.name)


def expected(run: Run) -> dict[CheckpointId, dict[str, bytes]]:
    return {c: make_state(c.step) for c in run.checkpoints() if str(c) not in run.rejected()}
