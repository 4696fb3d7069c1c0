"""Attempts, tags, choosing and listing: all computed from what is present."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor

import msgspec
import pytest

from checkpoints import begin, draft, make_repository, make_state, save
from holdfast.domain.names import CheckpointId
from holdfast.errors import DamagedError, FormatError, NotFoundError, UnsupportedError, UsageError
from holdfast.repository import layout, records
from holdfast.repository.commit import commit
from holdfast.repository.repository import Repository
from holdfast.repository.run import Run
from holdfast.storage.memory import MemoryStorage
from simulated_store import SimulatedDisk, SimulatedStore


@pytest.fixture
def run() -> Run:
    return make_repository(MemoryStorage()).run("digits")


def test_attempts_are_numbered_upwards_and_never_again(run: Run) -> None:
    made = [run.begin_attempt() for _ in range(3)]
    assert [a.number for a in made] == [1, 2, 3]
    assert [run.is_highest(a) for a in made] == [False, False, True]
    assert all(not a.based for a in run.attempts())


def test_racing_launches_get_different_numbers(run: Run) -> None:
    with ThreadPoolExecutor(8) as pool:
        made = list(pool.map(lambda _: run.begin_attempt(), range(8)))
    assert len({a.number for a in made}) == 8
    assert sum(run.is_highest(a) for a in made) == 1


def test_a_launch_in_the_middle_of_another_gets_a_higher_number() -> None:
    """At each operation of the first, a second one runs whole."""
    interrupted = [interrupted_launch(moment) for moment in range(6)]
    assert sum(interrupted) >= 3


def interrupted_launch(moment: int) -> bool:
    store = SimulatedStore()
    run = make_repository(store).run("digits")
    other = make_repository(SimulatedStore(store.disk)).run("digits")
    seen: list[int] = []
    start = len(store.log)

    def interrupt(number: int, verb: str, key: str) -> None:
        if number == start + moment:
            seen.append(other.begin_attempt().number)

    store.before = interrupt
    mine = run.begin_attempt().number
    assert mine not in seen
    assert max(a.id.number for a in run.attempts()) in (mine, *seen)
    return bool(seen)


def test_a_base_is_recorded_once(run: Run) -> None:
    attempt = run.begin_attempt()
    run.record_base(attempt, None)
    first = save(run, attempt, 1, 10).id
    run.record_base(attempt, first)  # too late: an attempt has one base
    assert [(a.based, a.base) for a in run.attempts()] == [(True, None)]


def test_ends_are_kept_and_damaged_ones_missed(run: Run) -> None:
    attempt = begin(run)
    run.record_end(attempt, "interrupted", 5, done=False)
    run.record_end(attempt, "finished", 9, done=True)
    assert run.ends()[attempt].cause == "finished"
    run.storage.put(run.layout.end(attempt), [b"{"])
    assert run.ends() == {}


def test_latest_walks_back_past_rejected_ones_and_sees_no_zombie(run: Run) -> None:
    zombie = begin(run)
    a1, a2 = (save(run, zombie, n, n * 10).id for n in (1, 2))
    attempt = begin(run)
    late = save(run, zombie, 3, 30).id
    assert run.latest() == a2
    run.reject(a2, "test")
    run.reject(a2, "again")
    assert run.latest() == a1
    b1 = save(run, attempt, 1, 15, parent=a1).id
    assert run.lineage() == [b1, a2, a1]
    assert late in run.checkpoints()
    assert list(run.recovery_points()) == [b1, a1]


def test_a_run_below_another_is_another() -> None:
    repository = make_repository(MemoryStorage())
    inner = repository.run("sweep/lr3")
    save(inner, begin(inner), 1, 10)
    assert inner.exists()
    assert not repository.run("sweep").exists()
    outer = repository.run("sweep")
    save(outer, begin(outer), 1, 20)
    assert [r.name for r in repository.runs()] == ["sweep", "sweep/lr3"]
    assert [r.name for r in repository.runs("sweep/*")] == ["sweep/lr3"]
    assert [c.step for c in outer.checkpoints()] == [20]


def test_resolving_addresses(run: Run) -> None:
    attempt = begin(run)
    one, two = (save(run, attempt, n, n * 100).id for n in (1, 2))
    run.set_tag("good", one)
    assert run.resolve("latest") == two
    assert run.resolve(100) == run.resolve("good") == one
    assert run.best("loss", "min") == two
    assert run.best("loss", "max") == one
    assert run.best("accuracy", "max") is None
    with pytest.raises(UsageError):
        run.best()
    for missing in (300, "bad"):
        with pytest.raises(NotFoundError, match="100, 200"):
            run.resolve(missing)
    with pytest.raises(NotFoundError, match="no such run"):
        run.repository.run("other").resolve("latest")


def test_a_step_on_the_line_comes_before_a_dead_or_rejected_one(run: Run) -> None:
    zombie = begin(run)
    base = save(run, zombie, 1, 100).id
    attempt = begin(run)
    dead = save(run, zombie, 2, 200, make_state(200, seed="zombie")).id
    assert run.resolve(200) == dead
    live = save(run, attempt, 1, 200, parent=base).id
    assert run.resolve(200) == live
    run.reject(live, "test")
    assert run.resolve(200) == dead


def test_best_ignores_what_is_not_finite(run: Run) -> None:
    attempt = begin(run)
    values = [float("nan"), 0.5, float("-inf"), 0.7]
    for number, value in enumerate(values, start=1):
        made = draft(attempt, number, number * 10, make_state(number))
        commit(run, msgspec.structs.replace(made, metrics={"val": value}, monitor="val min"))
    best = run.best()
    assert best is not None
    assert best.step == 20


def test_best_is_found_while_a_live_run_removes_others() -> None:
    disk = SimulatedDisk()
    run = make_repository(SimulatedStore(disk)).run("digits")
    attempt = begin(run)
    one, _, three = (save(run, attempt, n, n * 10).id for n in (1, 2, 3))
    store = SimulatedStore(disk)

    def before(number: int, verb: str, key: str) -> None:
        if verb == "get" and key.endswith(".manifest"):
            run.storage.delete(run.layout.checkpoint(one))

    store.before = before
    assert Repository.open(store).run("digits").best("loss", "min") == three


def test_tags_move_and_go(run: Run) -> None:
    attempt = begin(run)
    one, two = (save(run, attempt, n, n * 100).id for n in (1, 2))
    run.set_tag("good", one)
    run.set_tag("good", two)
    assert run.tags() == {"good": two}
    run.remove_tag("good")
    assert run.tags(strict=True) == {}
    with pytest.raises(NotFoundError):
        run.remove_tag("good")
    for name in ("best", "7", "../x"):
        with pytest.raises(UsageError):
            run.set_tag(name, one)
        with pytest.raises(UsageError):
            run.remove_tag(name)
    gone = msgspec.structs.replace(one, digest="0" * 64)
    with pytest.raises(NotFoundError):
        run.set_tag("good", gone)
    run.storage.put_if_absent(run.layout.condemn(one), b"")
    with pytest.raises(NotFoundError, match="being deleted"):
        run.set_tag("good", one)


def test_a_rejected_checkpoint_takes_no_tag(run: Run) -> None:
    attempt = begin(run)
    sound, bad = (save(run, attempt, n, n * 100).id for n in (1, 2))
    run.set_tag("good", sound)
    run.set_tag("old", bad)
    run.reject(bad, "test")
    for name in ("good", "new", "old"):
        with pytest.raises(UsageError, match=r"@200 is rejected as damaged.*'holdfast repair'"):
            run.set_tag(name, bad)
    assert run.tags() == {"good": sound, "old": bad}
    run.storage.delete(run.layout.reject(bad))  # as repair withdraws it
    run.set_tag("new", bad)


def test_hints_lost_or_wrong_cost_only_time(run: Run) -> None:
    checkpoint = save(run, begin(run), 1, 10).id
    key = run.layout.hint(checkpoint)
    for data in (b"", records.encode(records.HintRecord(["../../etc/passwd", "", "f" * 32, "x"]))):
        run.storage.put(key, [data])
        fresh = Repository.open(run.storage).run("digits")
        assert "f" * 32 in fresh.hints(checkpoint) or not data
        assert all(layout.pack_id_of(f"{p}.pack") for p in fresh.hints(checkpoint))


# -- the repository as a whole -----------------------------------------------------------


def test_opening_never_creates() -> None:
    storage = MemoryStorage()
    with pytest.raises(NotFoundError, match="no repository"):
        Repository.open(storage)
    assert list(storage.list("")) == []


def test_creating_again_opens() -> None:
    storage = MemoryStorage()
    assert make_repository(storage).id == make_repository(storage).id == Repository.create(storage).id
    assert Repository.create(storage).chunk_bytes == make_repository(storage).chunk_bytes


@pytest.mark.parametrize("chunk_bytes", [0, -1, 4095, 1 << 30])
def test_chunk_sizes_have_bounds(chunk_bytes: int) -> None:
    with pytest.raises(UsageError):
        Repository.create(MemoryStorage(), chunk_bytes=chunk_bytes)
    storage = MemoryStorage()
    storage.put(layout.CONFIG, [records.encode(records.RepositoryConfig(1, "x", chunk_bytes))])
    with pytest.raises(DamagedError):
        Repository.open(storage)


def test_a_newer_format_is_refused() -> None:
    storage = MemoryStorage()
    storage.put(layout.CONFIG, [records.encode(records.RepositoryConfig(2, "x", 4096))])
    with pytest.raises(FormatError):
        Repository.open(storage)


def test_what_cannot_be_kept_is_refused_before_anything_is_written(run: Run) -> None:
    attempt = begin(run)
    before = list(run.storage.list(""))
    made = draft(attempt, 1, 10, {})
    with pytest.raises(UnsupportedError, match="hook"):
        commit(run, msgspec.structs.replace(made, tree={"hook": lambda: None}))
    assert list(run.storage.list("")) == before


def test_strangers_in_the_folders_are_no_checkpoints(run: Run) -> None:
    checkpoint = save(run, begin(run), 1, 10).id
    for name in ("x.manifest", ".DS_Store", f"0{checkpoint}.manifest", "a/b"):
        run.storage.put(f"{run.layout.checkpoints}{name}", [b"x"])
    assert run.all_checkpoints() == [checkpoint]
    assert isinstance(run.latest(), CheckpointId)


def test_a_base_that_cannot_be_read_says_what_to_do(run: Run) -> None:
    attempt = begin(run)
    run.storage.put(run.layout.base(attempt), [b""])
    with pytest.raises(DamagedError, match=f"{attempt}.base does not parse") as caught:
        run.latest()
    assert "holdfast repair" in str(caught.value)
