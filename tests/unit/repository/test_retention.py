"""Removal: only what nobody needs, never before its time, never on doubt."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import pytest

from checkpoints import (
    assert_restores,
    begin,
    draft,
    keys,
    make_repository,
    make_state,
    orphans,
    packs,
    prune,
    read,
    save,
)
from holdfast.domain.keep_rules import parse
from holdfast.domain.names import AttemptId, CheckpointId
from holdfast.errors import DamagedError, NotFoundError, StorageError
from holdfast.repository import layout, records
from holdfast.repository.commit import commit
from holdfast.repository.removing import remove_checkpoints, remove_run
from holdfast.repository.retaining import Retention
from holdfast.repository.retention import GRACE_SECONDS, finish, needed_packs, packs_of, remove, sweep
from holdfast.repository.run import Run
from holdfast.storage.local import LocalStorage
from holdfast.storage.memory import MemoryStorage
from simulated_store import SimulatedDisk, SimulatedStore


def always(checkpoint: CheckpointId) -> bool:
    return True


def filled(
    store: SimulatedStore | MemoryStorage, count: int = 3, name: str = "digits"
) -> tuple[Run, AttemptId, list[CheckpointId]]:
    run = make_repository(store).run(name)
    attempt = begin(run)
    return run, attempt, [save(run, attempt, n, n * 10).id for n in range(1, count + 1)]


def fresh(run: Run) -> Run:
    return make_repository(run.storage).run(run.name)


@pytest.mark.parametrize("how", ["rejected", "removed"])
def test_a_rule_decides_anew_if_what_it_kept_is_gone_before_it_has_the_lock(
    how: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    run, attempt, (one, two) = filled(MemoryStorage(), 2)
    excluding = run.repository.excluding

    @contextmanager
    def late(wait_seconds: float) -> Iterator[bool]:
        if how == "rejected":
            run.reject(two, "it is damaged")
        else:
            run.storage.delete(run.layout.checkpoint(two))
        with excluding(wait_seconds) as held:
            yield held

    monkeypatch.setattr(run.repository, "excluding", late)
    done = commit(run, draft(attempt, 3, 30, make_state(30)))
    rule = parse("last 2")
    Retention(run, attempt, rule, pytest.fail).after(done)
    assert one in run.checkpoints()
    monkeypatch.undo()
    Retention(run, attempt, rule, pytest.fail).after(done)
    assert [c for c in run.checkpoints() if str(c) not in run.rejected()] == [one, done.id]


def test_removing_gives_back_what_only_the_removed_needed() -> None:
    run, attempt, (one, two, three) = filled(MemoryStorage())
    before = packs(run.storage)
    result = prune(run, 1, attempt)
    assert result.checkpoints == [one, two]
    # The frozen tensor lies in the first pack, which must stay.
    assert len(result.packs) == 1
    assert packs(run.storage) == before - {layout.pack(p) for p in result.packs}
    assert result.freed_bytes > 0
    assert read(fresh(run), three) == make_state(30)
    assert orphans(run.repository) == set()


def test_a_pack_shared_with_another_run_stays() -> None:
    run, attempt, _ = filled(MemoryStorage(), 1)
    other = run.repository.run("other")
    copy = save(other, begin(other), 1, 10).id
    assert run.hints(run.checkpoints()[0]) == other.hints(copy)
    assert prune(run, 0, attempt).packs == []
    assert read(fresh(other), copy) == make_state(10)


def test_runs_that_wrote_the_same_chunks_leave_no_pack_behind() -> None:
    """Twins, each in a process of its own: what one stops needing may be what the other let go."""
    storage = MemoryStorage()
    twins = [make_repository(storage).run(name) for name in ("left", "right")]
    attempts = [begin(run) for run in twins]
    for number in range(1, 13):
        for run, attempt in zip(twins, attempts, strict=True):
            save(run, attempt, number, number * 10)
            prune(run, 1, attempt)
    # Of each the frozen tensor's, the newest, and one that the other let go just now.
    assert len(packs(storage)) <= 3 * len(twins)
    for run in twins:
        assert read(fresh(run), run.latest()) == make_state(120)


def test_only_who_may_delete_deletes() -> None:
    run, attempt, (one, two, three) = filled(MemoryStorage())
    run.set_tag("good", one)
    assert prune(run, 1, attempt).checkpoints == [two]
    begin(run)
    assert prune(run, 0, attempt).checkpoints == []  # superseded meanwhile
    assert run.checkpoints() == [one, three]


def test_who_is_superseded_between_condemning_and_deleting_does_not_delete() -> None:
    run, _, (one, *_) = filled(MemoryStorage())
    answers = iter([True, False])
    result = remove(run, [one], may_delete=lambda c: next(answers))
    assert result.checkpoints == []
    assert one in run.all_checkpoints()
    assert remove(run, [], may_delete=always).checkpoints == [one]  # condemned, so it goes later


def test_a_removal_that_died_half_way_is_finished() -> None:
    run, attempt, (one, _, _) = filled(MemoryStorage())
    run.storage.put_if_absent(run.layout.condemn(one), b"")
    assert one not in run.checkpoints()
    assert one in run.all_checkpoints()
    assert prune(run, 9, attempt).checkpoints == [one]
    assert run.condemned() == set()


def test_sweeping_takes_orphans_hints_and_condemnations_of_nothing() -> None:
    run, _, (one, two, three) = filled(MemoryStorage())
    storage = run.storage
    orphan = save(run.repository.run("gone"), AttemptId.new(1), 1, 77).id
    gone = run.repository.run("gone")
    storage.delete(gone.layout.checkpoint(orphan))
    storage.delete(run.layout.checkpoint(one))
    storage.put_if_absent(run.layout.condemn(one), b"")
    storage.put_if_absent(layout.condemned_pack("f" * 32), b"")
    watched = sweep(run.repository, dry_run=True)
    assert len(watched.packs) == 1
    assert layout.pack(watched.packs[0]) in packs(storage)
    done = sweep(run.repository)
    assert (done.packs, done.freed_bytes) == (watched.packs, watched.freed_bytes)
    assert orphans(run.repository) == set()
    assert run.condemned() == set()
    assert keys(storage, layout.CONDEMNED_PACKS) == []
    assert_restores(fresh(run), {two: make_state(20), three: make_state(30)})


def test_sweeping_leaves_a_run_that_is_called_as_the_folder_of_parts() -> None:
    storage = MemoryStorage()
    run, _, made = filled(storage)
    nested, _, inside = filled(storage, name="digits/parts")
    run.storage.put(run.layout.part(made[0], 1), [b"left by a killed save"])
    sweep(run.repository)
    assert run.storage.stat(run.layout.part(made[0], 1)) is None
    assert nested.checkpoints() == inside
    assert_restores(fresh(nested), {inside[-1]: make_state(30)})
    remove_run(fresh(run))
    assert fresh(nested).latest() == inside[-1]
    assert_restores(fresh(nested), {inside[-1]: make_state(30)})


def test_a_pack_condemned_though_needed_is_pardoned() -> None:
    run, attempt, (_, _, three) = filled(MemoryStorage())
    needed = packs_of(run, three)
    for pack_id in needed:
        run.storage.put_if_absent(layout.condemned_pack(pack_id), b"")
    later = fresh(run)
    later.repository.dependable |= needed
    made = save(later, attempt, 4, 30).id  # relies on none of them
    assert packs_of(later, made).isdisjoint(needed)
    sweep(later.repository)
    assert read(fresh(run), three) == make_state(30)
    assert read(fresh(run), made) == make_state(30)
    assert run.repository.condemned_packs() == {}


def test_a_damaged_manifest_without_hints_stops_all_removal() -> None:
    run, attempt, (_, two, _) = filled(MemoryStorage())
    run.storage.put(run.layout.checkpoint(two), [b"rubbish"])
    later = fresh(run)
    prune(later, 2, attempt, sweep=True)  # its hints say what it may need
    assert all(layout.pack(p) in packs(run.storage) for p in run.hints(two))
    run.storage.delete(run.layout.hint(two))
    before = keys(run.storage, layout.PACKS)
    with pytest.raises(DamagedError, match="nothing was deleted"):
        sweep(fresh(run).repository)
    with pytest.raises(DamagedError):
        remove(fresh(run), [two], may_delete=always)
    assert keys(run.storage, layout.PACKS) == before


def test_a_folder_that_may_be_a_run_stops_all_removal(tmp_path: Path) -> None:
    run = make_repository(LocalStorage(tmp_path)).run("digits")
    made = save(run, begin(run), 1, 10).id
    renamed = (tmp_path / "runs/digits").rename(tmp_path / "runs/digits (old)")
    before = packs(run.storage)
    with pytest.raises(DamagedError, match="nothing was deleted"):
        sweep(fresh(run).repository)
    assert packs(run.storage) == before
    renamed.rename(tmp_path / "runs/digits")
    sweep(fresh(run).repository)
    assert_restores(fresh(run), {made: make_state(10)})


def test_manifests_put_aside_within_a_run_are_no_checkpoints_and_stop_all_removal() -> None:
    run, _, (one, two, three) = filled(MemoryStorage())
    aside = f"{run.layout.checkpoints}later/{three}.manifest"
    run.storage.put(aside, [run.storage.get(run.layout.checkpoint(three))])
    run.storage.delete(run.layout.checkpoint(three))
    assert run.checkpoints() == [one, two]
    assert run.latest() == two
    before = packs(run.storage)
    with pytest.raises(DamagedError, match=r"runs/digits/checkpoints/later .* nothing was deleted"):
        sweep(fresh(run).repository)
    assert packs(run.storage) == before
    run.storage.delete(aside)
    assert sweep(fresh(run).repository).packs


def test_a_pack_whose_index_is_damaged_is_kept() -> None:
    run, _, (_, _, three) = filled(MemoryStorage())
    pack_id = next(p for p in run.hints(three) if all(p not in run.hints(c) for c in run.checkpoints()[:2]))
    whole = run.storage.get(layout.pack(pack_id))
    run.storage.put(layout.pack(pack_id), [whole[:-100] + bytes(100)])
    assert sweep(fresh(run).repository).packs == []
    run.storage.put(layout.pack(pack_id), [whole])
    assert read(fresh(run), three) == make_state(30)


@pytest.mark.parametrize("verb", ["list", "get", "stat"])
def test_any_error_while_looking_means_that_nothing_is_deleted(verb: str) -> None:
    store = SimulatedStore(SimulatedDisk(has_locks=True))
    filled(store)
    orphan = save(make_repository(store).run("gone"), AttemptId.new(1), 1, 77).id
    store.delete(make_repository(store).run("gone").layout.checkpoint(orphan))
    before, failing = packs(store), 0
    while refused_sweep(store, verb, failing):
        assert packs(store) == before
        failing += 1
    assert failing >= 3
    assert len(packs(store)) == len(before) - 1


def refused_sweep(store: SimulatedStore, verb: str, failing: int) -> bool:
    """Sweep with the so-many-eth look before the first deletion failing; whether it was refused."""
    seen: list[int] = []
    deleting: list[int] = []
    repository = make_repository(store)

    def refuse(number: int, done: str, key: str) -> None:
        deleting.extend([number] if done == "delete" else [])
        if done == verb and not deleting and "condemned" not in key:
            seen.append(number)
            if len(seen) == failing + 1:
                raise StorageError(f"cannot {done} {key}")

    store.before = refuse
    try:
        sweep(repository)
    except StorageError:
        return True
    finally:
        store.before = None
    return False


def test_what_a_rollback_left_behind_takes_no_place_of_the_best() -> None:
    run, rule = make_repository(MemoryStorage()).run("digits"), parse("last 1, best 1 val min")

    def put(attempt: AttemptId, sequence: int, step: int, value: float) -> CheckpointId:
        made = draft(attempt, sequence, step, make_state(step))
        made.metrics = {"val": value}
        done = commit(run, made)
        Retention(run, attempt, rule, pytest.fail).after(done)
        return done.id

    first = begin(run)
    one = put(first, 1, 100, 0.5)
    put(first, 2, 200, 0.3)
    second = begin(run, one)
    best = put(second, 1, 150, 0.35)
    for number in range(2, 6):
        put(second, number, 100 + 50 * number, 0.4)
        assert run.best("val", "min") == best


# -- without locks: grace -------------------------------------------------------------------


@pytest.fixture
def disk() -> SimulatedDisk:
    return SimulatedDisk(has_locks=False)


def test_nothing_goes_before_its_grace_is_over(disk: SimulatedDisk) -> None:
    run, attempt, (one, two, three) = filled(SimulatedStore(disk))
    before = packs(run.storage)
    first = prune(run, 1, attempt)
    assert (first.checkpoints, first.packs, first.waiting) == ([], [], 2)
    assert run.checkpoints() == [three]  # but nobody counts on them any more
    disk.advance(GRACE_SECONDS - 1)
    assert prune(run, 1, attempt).checkpoints == []
    disk.advance(1)
    manifests = prune(run, 1, attempt)
    assert manifests.checkpoints == [one, two]
    assert (manifests.packs, manifests.waiting) == ([], 1)
    assert packs(run.storage) == before
    disk.advance(GRACE_SECONDS)
    assert len(prune(run, 1, attempt).packs) == 1
    assert read(fresh(run), three) == make_state(30)
    assert orphans(run.repository) == set()


def test_what_was_condemned_of_any_run_is_finished(disk: SimulatedDisk) -> None:
    """Who asked for it, such as 'holdfast rm', may never come again."""
    run, attempt, (_, two, three) = filled(SimulatedStore(disk))
    other, _, _ = filled(SimulatedStore(disk), name="other")
    assert remove_run(other).waiting == 3
    prune(run, 1, attempt)
    run.storage.put(run.layout.tag("kept"), [records.encode(records.TagRecord("kept", str(two)))])
    disk.advance(GRACE_SECONDS)
    assert len(finish(fresh(run).repository).checkpoints) == 4
    assert run.all_checkpoints() == [two, three]
    assert other.all_checkpoints() == []
    sweep(fresh(run).repository)
    disk.advance(GRACE_SECONDS)
    assert sweep(fresh(run).repository).packs
    assert remove_run(fresh(other)).checkpoints == []
    assert not other.exists()
    assert read(fresh(run), three) == make_state(30)


def test_what_is_not_removed_because_others_read_keeps_its_tags() -> None:
    run, _, (one, two, three) = filled(MemoryStorage())
    run.set_tag("paper", one)
    run.set_tag("other", two)
    with fresh(run).repository.holding():
        assert remove_checkpoints(run, [one], wait_seconds=0.0).busy
    assert run.tags() == {"other": two, "paper": one}
    assert remove_checkpoints(run, [one]).checkpoints == [one]
    assert run.tags() == {"other": two}
    assert run.checkpoints() == [two, three]


def test_what_the_newest_launch_starts_from_is_not_finished(disk: SimulatedDisk) -> None:
    """A zombie condemned it when its successor had just chosen it."""
    run, _, (*_, three) = filled(SimulatedStore(disk))
    attempt = begin(run, three)
    run.storage.put_if_absent(run.layout.condemn(three), b"")
    disk.advance(GRACE_SECONDS)
    assert finish(fresh(run).repository).checkpoints == []
    save(run, attempt, 1, 40)
    assert finish(fresh(run).repository).checkpoints == [three]


def test_packs_of_a_save_under_way_are_not_orphans_yet(disk: SimulatedDisk) -> None:
    """A save is paused before its manifest is published; another process sweeps."""
    run, attempt, _ = filled(SimulatedStore(disk))
    other = make_repository(SimulatedStore(disk))
    pauses: list[float] = [GRACE_SECONDS / 2]

    def before(number: int, verb: str, key: str) -> None:
        if verb == "put_if_absent" and key.endswith(".manifest") and pauses:
            disk.advance(pauses.pop())
            sweep(other)
            sweep(other)

    assert isinstance(run.storage, SimulatedStore)
    run.storage.before = before
    made = save(run, attempt, 4, 40).id
    assert not pauses
    disk.advance(GRACE_SECONDS)
    sweep(other)
    assert read(fresh(run), made) == make_state(40)


def test_a_save_paused_for_longer_than_any_grace_notices(disk: SimulatedDisk) -> None:
    run, attempt, (one, *_) = filled(SimulatedStore(disk))
    other = make_repository(SimulatedStore(disk))
    paused: list[int] = []

    def before(number: int, verb: str, key: str) -> None:
        if verb == "put_if_absent" and key.endswith(".manifest") and not paused:
            paused.append(number)
            for _ in range(4):  # all its packs look like orphans, and go
                disk.advance(GRACE_SECONDS)
                sweep(other)

    assert isinstance(run.storage, SimulatedStore)
    run.storage.before = before
    made = save(run, attempt, 4, 40).id
    assert paused
    assert read(fresh(run), made) == make_state(40)
    assert read(fresh(run), one) == make_state(10)


def test_dedup_against_a_pack_about_to_go(disk: SimulatedDisk) -> None:
    """The pack is condemned between the look for it and the publication of what relies on it."""
    run, attempt, (one, two, three) = filled(SimulatedStore(disk))
    pruner = make_repository(SimulatedStore(disk)).run("digits")
    done: list[int] = []

    def before(number: int, verb: str, key: str) -> None:
        if verb == "put" and key.startswith("packs/") and not done:
            done.append(number)
            drop = [one, two, three]
            remove(pruner, drop, may_delete=always)
            disk.advance(GRACE_SECONDS)
            remove(pruner, drop, may_delete=always)  # manifests gone, packs condemned

    assert isinstance(run.storage, SimulatedStore)
    run.storage.before = before
    made = save(run, attempt, 4, 40).id
    run.storage.before = None
    assert done
    assert pruner.repository.condemned_packs() != {} or not packs(run.storage)
    for _ in range(3):
        disk.advance(GRACE_SECONDS)
        sweep(pruner.repository)
    assert run.all_checkpoints() == [made]
    assert read(fresh(run), made) == make_state(40)
    assert needed_packs(fresh(run).repository) == {layout.pack_id_of(k) for k in packs(run.storage)}


def test_of_two_copies_all_condemned_one_survives(disk: SimulatedDisk) -> None:
    """Two pruners that know different copies condemn each what the other keeps."""
    a = make_repository(SimulatedStore(disk)).run("digits")
    attempt = begin(a)
    one = save(a, attempt, 1, 10).id
    b = make_repository(SimulatedStore(disk)).run("digits")
    two = save(b, attempt, 2, 10).id
    for pack_id in a.hints(one) + b.hints(two):
        a.storage.put_if_absent(layout.condemned_pack(pack_id), b"")
    disk.advance(GRACE_SECONDS)
    for repository in (a.repository, b.repository) * 4:
        sweep(repository)
        for checkpoint in (one, two):
            assert read(fresh(a), checkpoint) == make_state(10)
        disk.advance(GRACE_SECONDS / 2)


def test_stale_listings_delete_nothing_that_is_needed(disk: SimulatedDisk) -> None:
    disk.list_lag_seconds = 60
    run, attempt, made = filled(SimulatedStore(disk))
    sweep(make_repository(SimulatedStore(disk)))
    disk.advance(61)
    for _ in range(6):
        with suppress(NotFoundError):  # a listing shows what is gone: nothing more is deleted then
            prune(run, 1, attempt)
        disk.advance(GRACE_SECONDS)
    assert run.all_checkpoints() == made[-1:]
    assert read(fresh(run), made[-1]) == make_state(30)
