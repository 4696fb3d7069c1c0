"""Commits: whole or not at all, deduplicated, rechecked, and honest about what is unknown."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from checkpoints import (
    CHUNK_BYTES,
    BytesTensor,
    assert_restores,
    begin,
    keys,
    make_repository,
    make_state,
    orphans,
    packs,
    prune,
    read,
    save,
)
from holdfast.errors import BusyError, DamagedError, StorageError
from holdfast.repository import layout, writing
from holdfast.repository.reading import read_tensors
from holdfast.repository.repository import Repository
from holdfast.repository.retention import packs_of, remove, sweep
from holdfast.repository.run import Run
from holdfast.storage.memory import MemoryStorage
from simulated_store import Fault, SimulatedCrash, SimulatedDisk, SimulatedStore


@pytest.fixture
def run() -> Run:
    return make_repository(MemoryStorage()).run("digits")


def reopened(run: Run) -> Run:
    return Repository.open(run.storage).run(run.name)


def test_what_is_saved_comes_back(run: Run) -> None:
    attempt = begin(run)
    made = [save(run, attempt, n, n * 10) for n in (1, 2, 3)]
    assert_restores(reopened(run), {c.id: make_state(c.id.step) for c in made})
    assert made[0].summary.size_bytes == sum(map(len, make_state(10).values()))


def test_only_what_is_new_is_written(run: Run) -> None:
    attempt = begin(run)
    state = make_state(10)
    distinct = sum(map(len, set(state.values())))
    assert save(run, attempt, 1, 10, state).new_bytes == distinct  # the tied pair once
    assert save(run, attempt, 2, 20, make_state(20)).new_bytes == distinct - len(state["frozen"])
    assert save(run, attempt, 3, 20, make_state(20)).new_bytes == 0
    later = reopened(run)
    assert save(later, attempt, 4, 20, make_state(20)).new_bytes == distinct  # nothing was relied on yet


@pytest.mark.parametrize("size_bytes", [0, 1, CHUNK_BYTES - 1, CHUNK_BYTES, CHUNK_BYTES + 1, 9 * CHUNK_BYTES])
def test_tensors_of_every_size(run: Run, size_bytes: int) -> None:
    state = {"a": bytes(range(256)) * (size_bytes // 256) + bytes(size_bytes % 256), "b": b""}
    checkpoint = save(run, begin(run), 1, 10, state).id
    assert read(reopened(run), checkpoint) == state


def test_a_checkpoint_without_tensors(run: Run) -> None:
    checkpoint = save(run, begin(run), 1, 10, {"empty": b""}).id
    assert read(reopened(run), checkpoint) == {"empty": b""}
    assert packs(run.storage) == set()


def test_many_packs_at_once(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(writing, "PACK_BYTES", 8192)
    state = {f"t{n}": bytes([n]) * 3000 for n in range(40)}
    made = save(run, begin(run), 1, 10, state)
    assert len(packs(run.storage)) > 10
    assert read(reopened(run), made.id) == state


def vanish(store: SimulatedStore, when: str, act: Callable[[], None]) -> None:
    """Call ``act`` once, right before the first manifest is published (or after)."""
    done: list[int] = []

    def before(number: int, verb: str, key: str) -> None:
        publishes = verb == "put_if_absent" and key.endswith(".manifest")
        if not done and (publishes if when == "before" else store.log[-2:-1] and is_publish(store.log[-2])):
            done.append(number)
            act()

    store.before = before


def is_publish(entry: tuple[str, str]) -> bool:
    return entry[0] == "put_if_absent" and entry[1].endswith(".manifest")


@pytest.mark.parametrize("when", ["before", "after"])
@pytest.mark.parametrize("how", ["deleted", "condemned"])
def test_packs_that_vanish_under_a_save_are_written_anew(when: str, how: str) -> None:
    disk = SimulatedDisk()
    store, other = SimulatedStore(disk), SimulatedStore(disk)
    run = make_repository(store).run("digits")
    attempt = begin(run)
    first = save(run, attempt, 1, 10).id

    def act() -> None:
        for pack_id in list(run.hints(first)):
            if how == "deleted":
                other.delete(layout.pack(pack_id))
            else:
                other.put(layout.condemned_pack(pack_id), [b"{}"])  # unreadable records condemn too

    vanish(store, when, act)
    made = save(run, attempt, 2, 20)
    store.before = None
    fresh = make_repository(other).run("digits")
    assert read(fresh, made.id) == make_state(20)
    assert packs_of(fresh, made.id).isdisjoint(fresh.repository.condemned_packs())
    assert str(made.id) not in run.repository.doubtful


def test_a_save_whose_packs_keep_vanishing_is_doubtful() -> None:
    store = SimulatedStore()
    run = make_repository(store).run("digits")
    attempt = begin(run)

    def before(number: int, verb: str, key: str) -> None:
        if verb == "stat" and key.startswith("packs/"):
            store.disk.change(key, None, durable=True)

    store.before = before
    with pytest.raises(StorageError, match="vanishing"):
        save(run, attempt, 1, 10)
    assert {str(c) for c in run.all_checkpoints()} == run.repository.doubtful


def test_an_error_at_any_operation_is_told_and_leaves_the_rest_alone() -> None:
    for has_locks in (True, False):
        for fault in (Fault.FAIL_BEFORE, Fault.FAIL_UNSYNCED, Fault.FAIL_AFTER):
            fail_everywhere(fault, has_locks)


def fail_everywhere(fault: Fault, has_locks: bool) -> None:
    operation = 0
    while True:
        store = SimulatedStore(SimulatedDisk(has_locks=has_locks))
        run = make_repository(store).run("digits")
        attempt = begin(run)
        first = save(run, attempt, 1, 10).id
        start, before = len(store.log), packs(store)
        store.faults = {start + operation: fault}
        try:
            made = save(run, attempt, 2, 20).id
        except StorageError:
            made = None
        if len(store.log) <= start + operation:
            return
        store.faults = {}
        fresh = reopened(run)
        assert read(fresh, first) == make_state(10)
        visible = [c for c in fresh.all_checkpoints() if c.step == 20]
        assert made is None or visible == [made]
        for checkpoint in visible:
            assert read(fresh, checkpoint) == make_state(20)
        doubtful = run.repository.doubtful
        assert doubtful <= {str(c) for c in visible} or not has_locks
        assert made is not None or {str(c) for c in visible} <= doubtful
        if has_locks and not visible:
            assert packs(store) == before, f"operation {operation}: {store.log[start + operation]}"
            assert len(keys(store, run.layout.hints)) == 1
        again = save(run, attempt, 3, 30).id
        assert read(reopened(run), again) == make_state(30)
        operation += 1


def test_death_at_any_operation_loses_nothing_and_leaves_nothing() -> None:
    for fault in (Fault.CRASH_BEFORE, Fault.CRASH_TORN, Fault.CRASH_UNSYNCED, Fault.CRASH_AFTER):
        for power in (False, True):
            crash_everywhere(fault, power)


def crash_everywhere(fault: Fault, power: bool) -> None:
    """Save with dedup and prune; die; go on in another process."""
    operation = 0
    while True:
        disk = SimulatedDisk(has_locks=True)
        store = SimulatedStore(disk)
        run = make_repository(store).run("digits")
        attempt = begin(run)
        states = {save(run, attempt, n, n * 10).id: make_state(n * 10) for n in (1, 2)}
        start = len(store.log)
        store.faults = {start + operation: fault}
        told = None
        try:
            told = save(run, attempt, 3, 30).id
            prune(run, 1, attempt)
        except SimulatedCrash:
            pass
        if len(store.log) <= start + operation:
            return
        if power:
            disk.lose_power()
        survivor = make_repository(SimulatedStore(disk)).run("digits")
        present = survivor.all_checkpoints()
        new = [c for c in present if c not in states]
        assert told is None or new == [told]
        assert new or set(present) == set(states)
        assert_restores(survivor, {c: states.get(c, make_state(30)) for c in present})
        assert survivor.latest() == (new[0] if new else max(states, key=lambda c: c.step))
        successor = begin(survivor)
        last = save(survivor, successor, 1, 40).id
        prune(survivor, 1, successor, sweep=True)
        assert survivor.all_checkpoints() == [last]
        assert orphans(survivor.repository) == set()
        assert read(survivor, last) == make_state(40)
        operation += 1


def test_an_interrupt_cleans_up_what_nobody_knows_of(run: Run) -> None:
    class Interrupting(BytesTensor):
        def read(self):  # type: ignore[no-untyped-def]  # never returns
            raise KeyboardInterrupt

    from checkpoints import draft
    from holdfast.repository.commit import commit

    made = draft(begin(run), 1, 10, make_state(10))
    made.sources = {**made.sources, "zz": Interrupting(20_000)}
    with pytest.raises(KeyboardInterrupt):
        commit(run, made)
    assert packs(run.storage) == set()


def test_nobody_saves_while_somebody_prunes(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    from holdfast.repository import repository

    monkeypatch.setattr(repository, "LOCK_WAIT_SECONDS", 0.01)
    attempt = begin(run)
    checkpoint = save(run, attempt, 1, 10).id
    with run.repository.excluding(0) as held:
        assert held
        with pytest.raises(BusyError):
            save(run, attempt, 2, 20)
        with pytest.raises(BusyError):
            read(run, checkpoint)
    with run.repository.holding():
        assert remove(run, [checkpoint], may_delete=lambda c: True, wait_seconds=0).busy
        assert sweep(run.repository, wait_seconds=0).busy
        assert read(run, checkpoint) == make_state(10)


# -- reading ------------------------------------------------------------------------------


def test_a_reader_with_an_old_view_finds_the_copy_written_since(run: Run) -> None:
    """The pack it knows was deleted, and the same chunk saved again elsewhere."""
    reader = reopened(run)
    other = make_repository(run.storage).run("other")
    first = save(other, begin(other), 1, 10).id
    assert read(reopened(other), first) == make_state(10)
    reader.repository.index.load_all()
    remove(other, [first], may_delete=lambda c: True)
    second = save(run, begin(run), 1, 10).id
    assert read(reader, second) == make_state(10)
    assert list(run.storage.list(layout.DAMAGED_PACKS)) == []


def test_a_pruner_with_an_old_view_spares_the_copy_written_since(run: Run) -> None:
    other = make_repository(run.storage).run("other")
    first = save(other, begin(other), 1, 10).id
    run.repository.index.load_all()
    remove(other, [first], may_delete=lambda c: True)
    second = save(other, begin(other), 2, 10).id  # the same bytes in a pack that the pruner has not seen
    assert packs_of(run.repository.run("other"), second)
    sweep(run.repository)
    assert read(reopened(other), second) == make_state(10)


def test_the_second_copy_is_found_in_a_pack_not_looked_at_yet(run: Run) -> None:
    attempt = begin(run)
    first = save(run, attempt, 1, 10).id
    second = save(reopened(run), attempt, 2, 10).id  # relied on nothing: written again
    (pack_id,) = run.hints(first)
    data = bytearray(run.storage.get(layout.pack(pack_id)))
    data[100] ^= 1
    run.storage.put(layout.pack(pack_id), [bytes(data)])
    for tried in (first, second):
        assert read(reopened(run), tried) == make_state(10)


def test_a_reader_that_may_not_write_still_learns_of_damage() -> None:
    store = SimulatedStore()
    run = make_repository(store).run("digits")
    checkpoint = save(run, begin(run), 1, 10).id
    (pack_id,) = run.hints(checkpoint)
    data = bytearray(store.get(layout.pack(pack_id)))
    data[100] ^= 1
    store.put(layout.pack(pack_id), [bytes(data)])

    def refuse(number: int, verb: str, key: str) -> None:
        if verb.startswith("put"):
            raise StorageError("read-only")

    store.before = refuse
    with pytest.raises(DamagedError, match="does not match its digest"):
        read(reopened(run), checkpoint)


def test_a_chunk_of_another_size_is_damage_not_garbage(run: Run) -> None:
    """A forged manifest, right in all its digests, that gives a tensor somebody else's chunk."""
    checkpoint = save(run, begin(run), 1, 10, {"a": b"x" * 100, "b": b"y" * 50}).id
    manifest = run.manifest(checkpoint)
    manifest.tensors["a"], manifest.tensors["b"] = (
        type(e)(
            e.dtype, e.shape, (type(e.shards[0])(e.shards[0].offsets, e.shards[0].sizes, c.shards[0].chunks),)
        )
        for e, c in (
            (manifest.tensors["a"], manifest.tensors["b"]),
            (manifest.tensors["b"], manifest.tensors["a"]),
        )
    )
    targets = [(name, BytesTensor(spec.size_bytes)) for name, spec in manifest.specs().items()]
    with pytest.raises(DamagedError, match="another size"):
        read_tensors(run.repository.reader, manifest, [], targets, "it")
