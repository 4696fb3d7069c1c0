"""Syncs that are cut short: by a kill, by power loss; and what the next one makes of it."""

from __future__ import annotations

import random

import pytest

from checkpoints import CHUNK_BYTES, assert_restores, begin, keys, make_repository, prune, read, save
from holdfast.repository import adopting, layout
from holdfast.repository.repository import Repository
from holdfast.repository.retention import remove, sweep
from holdfast.repository.run import Run
from holdfast.repository.sync_plan import Route
from holdfast.repository.syncing import sync_run
from holdfast.storage.memory import MemoryStorage
from simulated_store import Fault, SimulatedCrash, SimulatedDisk, SimulatedStore
from syncs import a_copy, another, expected, make_run, synced


@pytest.fixture
def run() -> Run:
    return make_run()


def test_a_sync_cut_short_goes_on_from_what_it_has_moved(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(adopting, "BROUGHT_PACK_BYTES", 2 * CHUNK_BYTES)
    state = {f"t{n}": random.Random(n).randbytes(CHUNK_BYTES) for n in range(20)}
    save(run, run.attempts()[-1].id, 3, 500, state)
    disk = SimulatedDisk()
    target = a_copy(run, SimulatedStore(disk))
    dying = SimulatedStore(disk)
    written = 0

    def before(number: int, verb: str, key: str) -> None:
        nonlocal written
        written += verb == "put" and key.startswith(layout.PACKS)
        if written == 8:
            dying.faults[number] = Fault.CRASH_BEFORE

    dying.before = before
    with pytest.raises(SimulatedCrash):
        sync_run(Route(run.repository, Repository.open(dying)), "digits")
    disk.lose_power()
    assert not target.run("digits").exists()
    moved = 7 * 2 * CHUNK_BYTES
    fresh = SimulatedStore(disk)
    done = sync_run(Route(run.repository, Repository.open(fresh)), "digits")
    whole = synced(run, another()).moved_bytes
    assert done.moved_bytes == whole - moved
    there = Repository.open(fresh).run("digits")
    point = there.latest()
    assert point is not None
    assert read(there, point) == state
    disk.advance(7 * 3600)
    assert len(sweep(Repository.open(fresh)).packs) <= 1


@pytest.mark.parametrize("before", ["nothing there", "an older state there"])
@pytest.mark.parametrize("fault", [f for f in Fault if f.name.startswith("CRASH")])
def test_power_lost_at_any_operation_leaves_the_old_point_or_the_new_one(
    run: Run, fault: Fault, before: str
) -> None:
    first = make_repository(MemoryStorage())
    if before == "nothing there":
        old: set[object] = {None}
    else:
        synced(run, first)
        old = {found.identity} if (found := run.latest()) else set()
        prune(run, 1, begin(run, run.resolve(200)))
        save(run, run.attempts()[-1].id, 1, 600)
        save(run, begin(run), 1, 700)
        run.set_tag("paper", run.resolve(600))
    number = -1
    while True:
        number += 1
        disk = SimulatedDisk()
        for key in keys(first.storage):
            disk.change(key, first.storage.get(key), durable=True)
        store = SimulatedStore(disk, faults={number: fault})
        try:
            sync_run(Route(run.repository, Repository.open(store)), "digits")
            break
        except SimulatedCrash:
            disk.lose_power()
        check_what_is_left(run, Repository.open(SimulatedStore(disk)), old)
    assert number > 40


@pytest.mark.parametrize("kind", [".manifest", ".base"])
def test_what_a_killed_sync_made_visible_is_made_durable_by_the_next(run: Run, kind: str) -> None:
    """It died between linking a file and syncing the folder; then power is lost after all."""
    disk = SimulatedDisk()
    a_copy(run, SimulatedStore(disk))
    dying = SimulatedStore(disk)

    def before(number: int, verb: str, key: str) -> None:
        if verb == "put_if_absent" and key.endswith(kind):
            dying.faults[number] = Fault.CRASH_UNSYNCED

    dying.before = before
    with pytest.raises(SimulatedCrash):
        sync_run(Route(run.repository, Repository.open(dying)), "digits")
    sync_run(Route(run.repository, Repository.open(SimulatedStore(disk))), "digits")
    disk.lose_power()
    there = Repository.open(SimulatedStore(disk)).run("digits")
    assert there.latest() == run.latest()
    assert there.attempts() == run.attempts()


def check_what_is_left(run: Run, target: Repository, old: set[object]) -> None:
    there, wanted = target.run("digits"), run.latest()
    assert wanted is not None
    point = there.latest()
    assert (point.identity if point is not None else None) in old | {wanted.identity}
    assert_restores(there, expected(there))
    sync_run(Route(run.repository, target), "digits")
    again = Repository.open(target.storage).run("digits")
    point = again.latest()
    assert point is not None
    assert point.identity == wanted.identity
    assert {c.identity for c in expected(run)} <= {c.identity for c in again.checkpoints()}
    assert again.attempts() == run.attempts()
    assert {n: c.identity for n, c in again.tags().items()} == {n: c.identity for n, c in run.tags().items()}


def test_a_destination_that_is_slow_does_not_keep_the_source_from_pruning(
    run: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What goes meanwhile is not brought; the rest is, whole."""
    monkeypatch.setattr(adopting, "BROUGHT_PACK_BYTES", 2 * CHUNK_BYTES)
    attempt = run.attempts()[-1].id
    doomed = save(run, attempt, 3, 500, {f"t{n}": random.Random(n).randbytes(CHUNK_BYTES) for n in range(20)})
    last = save(run, attempt, 4, 600)
    disk = SimulatedDisk()
    slow = SimulatedStore(disk)
    pruned: list[bool] = []

    def before(number: int, verb: str, key: str) -> None:
        if verb == "put" and key.startswith(layout.PACKS) and not pruned:
            if sum(k.startswith(layout.PACKS) for k in keys(slow)) < 3:
                return
            others = Repository.open(run.storage).run("digits")
            gone = remove(others, [doomed.id], may_delete=lambda c: True, wait_seconds=0.0)
            pruned.append(not gone.busy)

    target = a_copy(run, slow)
    slow.before = before
    sync_run(Route(Repository.open(run.storage), target), "digits")
    assert pruned == [True]
    brought = Repository.open(SimulatedStore(disk)).run("digits")
    assert str(doomed.id) not in map(str, brought.checkpoints())
    assert read(brought, last.id) == expected(run)[last.id]
