"""A live run and a compaction beside it: what is there already is not written again."""

from __future__ import annotations

import pytest

from checkpoints import begin, make_repository, make_state, orphans, packs, read, save
from holdfast.domain.names import CheckpointId
from holdfast.repository import compact, layout
from holdfast.repository.depending import keep_up
from holdfast.repository.repository import Repository
from holdfast.repository.retention import GRACE_SECONDS, sweep
from holdfast.repository.run import Run
from holdfast.storage.memory import MemoryStorage
from simulated_store import SimulatedDisk, SimulatedStore

FROZEN = {f"frozen.{n}": bytes([n]) * 3000 + bytes(range(256)) * 4 for n in range(6)}


def state(step: int) -> dict[str, bytes]:
    return FROZEN | {"weight": bytes([step]) * 40 + bytes(range(200))}


def compacted(storage: MemoryStorage | SimulatedStore) -> None:
    done = compact.apply(compact.plan(Repository.open(storage)), wait_seconds=0)
    assert done.packs_written


def stored_copies(run: Run, digest: bytes) -> int:
    fresh = Repository.open(run.storage)
    fresh.index.load_all()
    return len(fresh.index.copies(digest))


def test_frozen_tensors_are_stored_once_for_all_compactions_beside_the_run() -> None:
    run = make_repository(MemoryStorage()).run("digits")
    attempt = begin(run)
    made: dict[CheckpointId, dict[str, bytes]] = {}
    parent = None
    for number in range(1, 7):
        committed = save(run, attempt, number, number, state(number), parent)
        parent = committed.id
        made[parent] = state(number)
        if number > 1:
            assert committed.new_bytes == len(state(number)["weight"])
        compacted(run.storage)
    for digest in run.needed_chunks(parent):
        assert stored_copies(run, digest) == 1
    for checkpoint, expected in made.items():
        assert read(run, checkpoint) == expected
    assert orphans(run.repository) == set()


def test_without_locks_a_condemned_pack_is_left_for_the_one_that_replaces_it() -> None:
    disk = SimulatedDisk(has_locks=False)
    run = make_repository(SimulatedStore(disk)).run("digits")
    attempt = begin(run)
    one = save(run, attempt, 1, 1, state(1)).id
    compacted(SimulatedStore(disk))
    two = save(run, attempt, 2, 2, state(2), one)
    assert two.new_bytes == len(state(2)["weight"])
    for _ in range(2):
        disk.advance(GRACE_SECONDS + 1)
        sweep(Repository.open(SimulatedStore(disk)))
    fresh = Repository.open(SimulatedStore(disk)).run("digits")
    assert (read(fresh, one), read(fresh, two.id)) == (state(1), state(2))


def test_a_checkpoint_that_came_while_its_packs_were_rewritten_is_relied_on_like_others() -> None:
    disk = SimulatedDisk(has_locks=False)
    run = make_repository(SimulatedStore(disk)).run("digits")
    attempt = begin(run)
    one = save(run, attempt, 1, 1, state(1)).id
    plan = compact.plan(Repository.open(SimulatedStore(disk)))
    two = save(run, attempt, 2, 2, state(2), one).id
    assert compact.apply(plan, wait_seconds=0).packs_written
    three = save(run, attempt, 3, 3, state(3), two)
    assert three.new_bytes == len(state(3)["weight"])
    assert read(run, three.id) == state(3)


@pytest.mark.parametrize("loss", ["manifest", "hint", "packs"])
def test_whatever_the_parent_has_lost_the_save_is_whole(loss: str) -> None:
    run = make_repository(MemoryStorage()).run("digits")
    attempt = begin(run)
    one = save(run, attempt, 1, 1, state(1)).id
    compacted(run.storage)
    lost = {
        "manifest": [run.layout.checkpoint(one)],
        "hint": [run.layout.hint(one)],
        "packs": sorted(packs(run.storage)),
    }
    for key in lost[loss]:
        run.storage.delete(key)
    two = save(run, attempt, 2, 2, state(2), one).id
    assert read(Repository.open(run.storage).run("digits"), two) == state(2)


def test_nothing_is_read_where_nothing_was_rewritten() -> None:
    run = make_repository(MemoryStorage()).run("digits")
    one = save(run, begin(run), 1, 1, make_state(1)).id
    marks = dict(run.repository.marks)
    run.storage.delete(run.layout.checkpoint(one))  # whoever reads it fails
    keep_up(run, one)
    keep_up(run, None)
    assert run.repository.marks == marks
    assert layout.pack_id_of(next(iter(packs(run.storage)))) in run.repository.dependable
