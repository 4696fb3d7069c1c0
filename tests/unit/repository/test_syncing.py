"""Syncs: all that is needed is there first, only what is lacking moves, and nothing is lost on the way."""

from __future__ import annotations

import random
from collections.abc import Callable

import pytest

from checkpoints import (
    CHUNK_BYTES,
    assert_restores,
    begin,
    keys,
    make_repository,
    make_state,
    orphans,
    packs,
    read,
    save,
)
from holdfast.domain.keep_rules import parse
from holdfast.domain.names import CheckpointId
from holdfast.errors import UsageError
from holdfast.repository import adopting, compact, layout, records
from holdfast.repository.forking import fork
from holdfast.repository.pack import RAW
from holdfast.repository.pruning import apply
from holdfast.repository.pruning import plan as pruning_plan
from holdfast.repository.removing import remove_run
from holdfast.repository.repository import Repository
from holdfast.repository.retention import remove
from holdfast.repository.run import Run
from holdfast.repository.sync_plan import Route, missing, plan
from holdfast.repository.syncing import sync_run
from holdfast.repository.thinning import make_thin
from holdfast.storage.base import Storage
from holdfast.storage.memory import MemoryStorage
from holdfast.storage.sealed import at_rest
from keys import KEY, give
from simulated_store import SimulatedDisk, SimulatedStore
from syncs import a_copy, another, expected, make_run, synced


@pytest.fixture
def run() -> Run:
    return make_run()


@pytest.mark.parametrize("make", [a_copy, lambda run: another(), lambda run: another(3 * CHUNK_BYTES)])
def test_all_of_a_run_comes_and_resumes_at_the_same_point(
    run: Run, make: Callable[[Run], Repository]
) -> None:
    target = make(run)
    done = synced(run, target)
    there = Repository.open(target.storage).run("digits")
    assert (done.checkpoints, done.failed) == (4, {})
    assert {c.identity for c in there.checkpoints()} == {c.identity for c in expected(run)}
    assert_restores(there, expected(there))
    latest, wanted = there.latest(), run.latest()
    assert latest is not None
    assert wanted is not None
    assert latest.identity == wanted.identity
    assert there.attempts() == run.attempts()
    assert there.ends() == run.ends()
    assert there.tags()["paper"].identity == run.tags()["paper"].identity
    assert orphans(there.repository) == set()
    made = save(there, begin(there), 1, 500).id
    assert read(there, made) == make_state(500)
    assert there.latest() == made


def test_a_repository_made_by_a_sync_is_a_copy(run: Run) -> None:
    target = a_copy(run)
    synced(run, target)
    there = Repository.open(target.storage).run("digits")
    assert set(there.checkpoints()) == set(expected(run))
    assert all(run.manifest(c) == there.manifest(c) for c in there.checkpoints())


def test_records_that_are_damaged_keep_no_others_back(monkeypatch: pytest.MonkeyPatch) -> None:
    give(monkeypatch, HOLDFAST_KEY=KEY)
    sealed = make_run()
    first = sealed.attempts()[0].id
    bad = (sealed.layout.attempt(first), sealed.layout.end(first))
    for key in bad:
        at_rest(sealed.storage).put(key, [b"damaged"])
    target = another()
    assert set(synced(sealed, target).failed) == set(bad)
    assert target.run("digits").attempts() == sealed.attempts()


def test_the_record_of_an_end_that_is_damaged_at_the_destination_is_mended(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    give(monkeypatch, HOLDFAST_KEY=KEY)
    sealed, target = make_run(), another()
    synced(sealed, target)
    at_rest(target.storage).put(sealed.layout.end(sealed.attempts()[0].id), [b"damaged"])
    assert synced(sealed, target).failed == {}
    assert target.run("digits").ends() == sealed.ends()


def test_a_second_sync_moves_and_changes_nothing(run: Run) -> None:
    target = another()
    first = synced(run, target)
    before = {key: target.storage.get(key) for key in keys(target.storage)}
    again = synced(run, target)
    assert again.is_nothing
    assert first.moved_bytes > 0 == again.moved_bytes
    assert {key: target.storage.get(key) for key in keys(target.storage)} == before
    assert not next(plan(run.repository, target, ["digits"])).checkpoints


def test_only_new_chunks_move_and_a_plan_says_so(run: Run) -> None:
    target = another()
    synced(run, target)
    attempt = run.attempts()[-1].id
    new = save(run, attempt, 3, 500).id
    planned = next(plan(Repository.open(run.storage), Repository.open(target.storage), ["digits"]))
    done = synced(run, target)
    distinct = sum(map(len, set(make_state(500).values())))
    assert done.moved_bytes == distinct - len(make_state(500)["frozen"]) == planned.moved_bytes
    assert (done.checkpoints, planned.checkpoints) == (1, 1)
    there = Repository.open(target.storage).run("digits")
    assert_restores(there, {c: make_state(500) for c in there.checkpoints() if c.step == new.step})


def test_chunks_of_other_runs_are_relied_on(run: Run) -> None:
    target = another()
    synced(run, target)
    fork(run, run.resolve(200), "branch")
    done = synced(run.repository.run("branch"), target)
    assert (done.checkpoints, done.moved_bytes) == (1, 0)
    branch = Repository.open(target.storage).run("branch")
    assert_restores(branch, {c: make_state(200) for c in branch.checkpoints()})
    assert branch.attempts()[0].base == run.resolve(200)


def test_what_is_encoded_stays_so(run: Run) -> None:
    state = {"zeros": bytes(9 * CHUNK_BYTES), "noise": random.Random(1).randbytes(CHUNK_BYTES)}
    save(run, run.attempts()[-1].id, 3, 500, state)
    compact.apply(compact.plan(run.repository))
    target = another()
    synced(run, target)
    there = Repository.open(target.storage)
    there.index.load_all()
    codecs = {e.codec for p in there.index.packs() for e in there.index.entries(p)}
    assert codecs == {RAW, "constant"}
    latest = there.run("digits").latest()
    assert latest is not None
    assert read(there.run("digits"), latest) == state


def test_thin_checkpoints_come_too(run: Run) -> None:
    make_thin(run, run.resolve(100), lambda value: value.name == "weight")
    target = another()
    assert synced(run, target).checkpoints == 5
    there = Repository.open(target.storage).run("digits")
    thin = next(c for c in there.checkpoints() if c.kind == "thin")
    assert read(there, thin) == {"weight": make_state(100)["weight"]}


def flip(storage: Storage, pack_id: str, *, every: int) -> None:
    data = bytearray(storage.get(layout.pack(pack_id)))
    for place in range(8, len(data) - 8192, every):
        data[place] ^= 1
    storage.put(layout.pack(pack_id), [bytes(data)])


def own_pack(run: Run, checkpoint: CheckpointId) -> str:
    others = {p for c in run.checkpoints() if c != checkpoint for p in run.hints(c)}
    return next(p for p in run.hints(checkpoint) if p not in others)


def test_a_damaged_copy_is_named_and_another_one_taken(run: Run) -> None:
    second = Repository.open(run.storage).run("twin")  # relies on nothing, so it writes all chunks again
    save(second, begin(second), 1, 300)
    pack_id = own_pack(run, run.resolve(300))
    flip(run.storage, pack_id, every=1000)
    target = another()
    route = Route(Repository.open(run.storage), target)
    done = sync_run(route, "digits")
    assert done.failed == {}
    assert {pack for pack, _ in route.copies.found} == {pack_id}
    there = Repository.open(target.storage).run("digits")
    assert_restores(there, expected(there))


def test_what_has_no_good_copy_is_left_out_and_the_rest_comes(run: Run) -> None:
    latest = run.latest()
    assert latest is not None
    flip(run.storage, own_pack(run, latest), every=1000)
    target = another()
    done = synced(run, target)
    assert set(done.failed) == {str(latest)}
    assert "does not match its digest" in done.failed[str(latest)]
    there = Repository.open(target.storage).run("digits")
    assert {c.step for c in there.checkpoints()} == {100, 200, 300}
    point = there.latest()
    assert point is not None
    assert point.step == 200  # where a launch at the source would walk back to
    assert_restores(there, expected(there))
    assert synced(run, target).moved_bytes == 0


def test_without_any_good_recovery_point_no_line_is_recorded(run: Run) -> None:
    """Or a launch at the destination would start from scratch."""
    for checkpoint in run.checkpoints():
        for pack_id in run.hints(checkpoint):
            run.storage.put(layout.pack(pack_id), [b"x" * 4096])
    target = another()
    done = synced(run, target)
    assert len(done.failed) == 4
    assert not target.run("digits").exists()


def test_what_is_rejected_later_is_rejected_there_too(run: Run) -> None:
    target = another()
    synced(run, target)
    latest = run.latest()
    assert latest is not None
    run.reject(latest, "a bad disk")
    assert synced(run, target).records == 1
    there = Repository.open(target.storage).run("digits")
    point, wanted = there.latest(), run.latest()
    assert point is not None
    assert wanted is not None
    assert point.identity == wanted.identity
    assert synced(run, target).is_nothing


def test_tags_move_and_ends_change(run: Run) -> None:
    target = another()
    synced(run, target)
    run.set_tag("paper", run.resolve(200))
    run.record_end(run.attempts()[-1].id, "finished", 400, done=True)
    assert synced(run, target).records == 2
    there = Repository.open(target.storage).run("digits")
    assert there.tags()["paper"].step == 200
    assert there.ends() == run.ends()


def test_a_destination_that_went_on_by_itself_is_refused_and_goes_the_other_way(run: Run) -> None:
    target = a_copy(run)
    synced(run, target)
    there = Repository.open(target.storage).run("digits")
    new = save(there, begin(there), 1, 500).id
    with pytest.raises(UsageError, match=r"digits in .* has gone on by itself \(attempt 000003-"):
        synced(run, target)
    assert synced(there, run.repository).checkpoints == 1
    here = Repository.open(run.storage).run("digits")
    assert here.latest() == new
    assert_restores(here, {new: make_state(500)})
    begin(here)
    begin(there)
    for source, other in ((here, there), (there, here)):
        with pytest.raises(UsageError, match="by itself"):
            synced(source, other.repository)


@pytest.mark.parametrize("attempts", [0, 1])
def test_a_run_that_is_removed_at_the_source_meanwhile_is_no_destination_gone_on(
    run: Run, attempts: int
) -> None:
    """Listed, and then removed whole, or but for an attempt as by a removal that was killed."""
    target = a_copy(run)
    synced(run, target)
    left = [run.layout.attempt(a.id) for a in run.attempts()[:attempts]]
    records = {key: run.storage.get(key) for key in left}
    remove_run(run)
    for key, data in records.items():
        run.storage.put(key, [data])
    assert synced(run, target).is_nothing
    there = Repository.open(target.storage).run("digits")
    assert len(there.checkpoints()) == 4
    assert len(there.attempts()) == 2


def test_a_live_source_may_go_on_and_remove(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    """Between two checkpoints of the sync, another attempt begins, saves, and lets the old ones go."""
    attempt = begin(run)
    save(run, attempt, 1, 500)
    adopt = adopting.adopt
    calls = 0

    def slow(*arguments: object) -> object:
        nonlocal calls
        calls += 1
        made = adopt(*arguments)  # type: ignore[arg-type]  # whatever it takes
        if calls == 1:
            run.storage.delete(run.layout.checkpoint(run.resolve(100)))
            save(run, begin(run), 1, 600)
        return made

    from holdfast.repository import syncing

    monkeypatch.setattr(syncing, "adopt", slow)
    target = another()
    assert synced(run, target).failed == {}
    there = Repository.open(target.storage).run("digits")
    point = there.latest()
    assert point is not None
    assert point.step == 500  # attempts are those of the beginning
    assert_restores(there, expected(there))
    assert synced(run, target).failed == {}
    point = Repository.open(target.storage).run("digits").latest()
    assert point is not None
    assert point.step == 600


@pytest.mark.parametrize("rule", ["last 2", "last 1, best 1 loss min", "last 1, then thin every 300 steps"])
def test_what_the_destination_would_remove_at_once_is_not_brought(rule: str) -> None:
    run = make_repository(MemoryStorage()).run("digits")
    attempt = begin(run)
    knowing, other = a_copy(run).run("digits"), a_copy(run).run("digits")
    for number in range(1, 8):
        save(run, attempt, number, number * 100)
        there = Repository.open(knowing.storage)
        brought = sync_run(Route(Repository.open(run.storage), there), "digits", keep=parse(rule)).checkpoints
        synced(run, other.repository)
        for place in (knowing, other):
            mirror = Repository.open(place.storage).run("digits")
            planned = pruning_plan(mirror, parse(rule), is_model=lambda value: True)
            apply(mirror, planned, is_model=lambda value: True)
        assert brought == 1
        assert {c.identity for c in knowing.checkpoints()} == {c.identity for c in other.checkpoints()}
    assert missing(run, knowing, parse(rule)) == []
    assert missing(run, knowing)


def test_no_line_is_recorded_that_leads_to_what_is_condemned_there(run: Run) -> None:
    """A mirror's own rule has condemned what the run goes back to: it keeps the point that it had."""
    disk = SimulatedDisk()
    a_copy(run, SimulatedStore(disk))
    here, there = (Repository.open(s).run("digits") for s in (run.storage, SimulatedStore(disk)))
    synced(run, there.repository)
    before = there.latest()
    oldest = there.resolve(100)
    there.remove_tag("paper")
    remove(there, [oldest], may_delete=lambda checkpoint: True)
    assert str(oldest) in there.condemned()
    attempt = begin(run, here.resolve(100))
    done = sync_run(Route(here.repository, there.repository), "digits")
    assert "is being deleted in" in done.failed[str(here.resolve(100))]
    assert there.latest() == before
    newer = save(run, attempt, 1, 150).id
    assert not sync_run(Route(here.repository, there.repository), "digits").failed
    assert there.latest() == newer


def test_a_recovery_point_that_is_damaged_there_is_not_said_to_be_there(run: Run) -> None:
    target = a_copy(run)
    synced(run, target)
    latest = run.latest()
    assert latest is not None
    target.run("digits").reject(latest, "two reads found it damaged")
    assert "rejected as damaged" in synced(run, target).failed[str(latest)]
    target.run("digits").readmit(latest)
    assert synced(run, target).is_nothing


def test_condemned_packs_there_are_not_relied_on(run: Run) -> None:
    target = another()
    synced(run, target)
    condemned = packs(target.storage)
    for key in condemned:
        pack_id = key[-37:-5]
        record = records.CondemnedRecord(pack_id, target.storage.now_seconds())
        target.storage.put(layout.condemned_pack(pack_id), [records.encode(record)])
    new = save(run, run.attempts()[-1].id, 3, 500).id
    synced(run, target)
    there = Repository.open(target.storage).run("digits")
    found = next(c for c in there.checkpoints() if c.step == new.step)
    assert not {layout.pack(p) for p in there.hints(found)} & condemned
    assert read(there, found) == make_state(500)
