"""Forks: a manifest of their own, no chunk copied, and nothing that happens to the source hurts them."""

from __future__ import annotations

import pytest

from checkpoints import (
    assert_restores,
    begin,
    make_repository,
    make_state,
    orphans,
    packs,
    prune,
    save,
)
from holdfast.domain.names import CheckpointId
from holdfast.errors import DamagedError, NotFoundError, UsageError
from holdfast.repository import layout, records, removing
from holdfast.repository.forking import fork
from holdfast.repository.moving import MovingRecord, move
from holdfast.repository.repository import Repository
from holdfast.repository.retention import sweep
from holdfast.repository.run import Run
from holdfast.repository.thinning import make_thin
from holdfast.storage.memory import MemoryStorage
from simulated_store import Fault, SimulatedCrash, SimulatedDisk, SimulatedStore


@pytest.fixture
def run() -> Run:
    return make_repository(MemoryStorage()).run("digits")


@pytest.fixture
def made(run: Run) -> list[CheckpointId]:
    attempt = begin(run)
    return [save(run, attempt, n, n * 100).id for n in (1, 2, 3)]


def reopened(run: Run, name: str) -> Run:
    return Repository.open(run.storage).run(name)


def test_a_fork_holds_the_same_state_and_copies_no_chunk(run: Run, made: list[CheckpointId]) -> None:
    before = packs(run.storage)
    forked = fork(run, made[1], "branch").id
    branch = reopened(run, "branch")
    assert packs(run.storage) == before
    assert branch.latest() == forked
    assert_restores(branch, {forked: make_state(200)})
    summary, source = branch.summary(forked), run.summary(made[1])
    assert (summary.parent, summary.reason) == (str(made[1]), "forked from digits@200")
    assert (summary.progress, summary.metrics) == (source.progress, source.metrics)
    assert branch.manifest(forked).tensors == run.manifest(made[1]).tensors
    assert branch.attempts()[0].base == made[1]


@pytest.mark.parametrize("gone", ["all of it", "its name", "its newest"])
def test_a_fork_needs_nothing_more_of_its_source(run: Run, made: list[CheckpointId], gone: str) -> None:
    forked = fork(run, made[2], "branch").id
    source = reopened(run, "digits")
    if gone == "all of it":
        removing.remove_run(source)
        assert not source.exists()
    elif gone == "its name":
        move(source, source.repository.run("elsewhere"))
    else:
        prune(source, 1, begin(source, made[0]))
    assert not sweep(Repository.open(run.storage)).busy
    branch = reopened(run, "branch")
    assert_restores(branch, {forked: make_state(300)})
    save(branch, begin(branch), 1, 400)
    assert orphans(branch.repository) == set()


def test_the_source_needs_nothing_of_a_fork(run: Run, made: list[CheckpointId]) -> None:
    fork(run, made[2], "branch")
    removing.remove_run(reopened(run, "branch"))
    assert_restores(reopened(run, "digits"), {c: make_state(c.step) for c in made})
    assert run.latest() == made[2]


def test_a_fork_of_a_fork(run: Run, made: list[CheckpointId]) -> None:
    branch = run.repository.run("branch")
    first = fork(run, made[0], "branch").id
    second = fork(branch, first, "branch/twig").id
    removing.remove_run(branch)
    removing.remove_run(run)
    assert_restores(reopened(run, "branch/twig"), {second: make_state(100)})


def test_what_cannot_be_resumed_is_refused(run: Run, made: list[CheckpointId]) -> None:
    make_thin(run, made[0], lambda value: value.name == "weight")
    thin = next(c for c in run.checkpoints() if c.kind == "thin")
    run.reject(made[1], "test")
    branch = run.repository.run("branch")
    with pytest.raises(UsageError, match="model only"):
        fork(run, thin, "branch")
    with pytest.raises(UsageError, match="rejected"):
        fork(run, made[1], "branch")
    with pytest.raises(UsageError, match="There is a run digits already"):
        fork(run, made[2], "digits")
    assert not branch.exists()


def test_a_run_that_has_begun_or_is_coming_is_not_forked_over(run: Run, made: list[CheckpointId]) -> None:
    started, coming = run.repository.run("started"), run.repository.run("coming")
    begin(started)
    run.storage.put(coming.layout.moving, [records.encode(MovingRecord("x"))])
    for target in (started, coming):
        with pytest.raises(UsageError, match="already"):
            fork(run, made[0], target.name)


def test_damage_is_found_before_anything_is_recorded(run: Run, made: list[CheckpointId]) -> None:
    for pack_id in run.hints(made[2]):
        run.storage.delete(layout.pack(pack_id))
    source = reopened(run, "digits")
    with pytest.raises(DamagedError, match="in no readable pack"):
        fork(source, made[2], "branch")
    assert not source.repository.run("branch").exists()
    run.storage.delete(run.layout.checkpoint(made[1]))
    with pytest.raises(NotFoundError, match="digits@200 was removed meanwhile"):
        fork(source, made[1], "branch")


def test_a_fork_relies_on_no_condemned_pack(run: Run, made: list[CheckpointId]) -> None:
    condemned = run.hints(made[2])
    for pack_id in condemned:
        record = records.CondemnedRecord(pack_id, run.storage.now_seconds())
        run.storage.put(layout.condemned_pack(pack_id), [records.encode(record)])
    source = reopened(run, "digits")
    forked = fork(source, made[2], "branch").id
    branch = reopened(run, "branch")
    assert not set(branch.hints(forked)) & set(condemned)
    for pack_id in condemned:
        run.storage.delete(layout.pack(pack_id))
    assert_restores(reopened(run, "branch"), {forked: make_state(300)})


def test_a_pack_condemned_while_the_fork_is_published_is_not_relied_on(
    run: Run, made: list[CheckpointId], monkeypatch: pytest.MonkeyPatch
) -> None:
    """On a storage without locks a pruner may condemn at any moment."""
    from holdfast.repository import commit

    condemned = run.hints(made[2])[0]
    publish = commit._publish

    def overtaken(*arguments: object) -> None:
        publish(*arguments)  # type: ignore[arg-type]  # whatever it takes
        record = records.CondemnedRecord(condemned, run.storage.now_seconds())
        run.storage.put(layout.condemned_pack(condemned), [records.encode(record)])

    monkeypatch.setattr(commit, "_publish", overtaken)
    forked = fork(run, made[2], "branch").id
    assert condemned not in reopened(run, "branch").hints(forked)


@pytest.mark.parametrize("fault", [f for f in Fault if f.name.startswith("CRASH")])
def test_power_lost_at_any_operation_leaves_a_fork_or_none(fault: Fault) -> None:
    """And where there is none, the same fork can be made again."""
    whole = 0
    for number in range(100):
        disk = SimulatedDisk()
        made = save(run := make_repository(SimulatedStore(disk)).run("digits"), begin(run), 1, 100).id
        store = SimulatedStore(disk, faults={number: fault})
        try:
            fork(make_repository(store).run("digits"), made, "branch")
            break
        except SimulatedCrash:
            disk.lose_power()
        fresh = make_repository(SimulatedStore(disk))
        branch = fresh.run("branch")
        whole += branch.latest() is not None
        forked = branch.latest() or fork(fresh.run("digits"), made, "branch").id
        assert branch.latest() == forked
        assert branch.checkpoints() == [forked]
        assert_restores(branch, {forked: make_state(100)})
    assert 10 < number < 100
    assert whole > 0 or fault is not Fault.CRASH_AFTER
