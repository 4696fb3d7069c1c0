"""Compaction: smaller packs, the same checkpoints, and nothing lost whatever is in the way."""

from __future__ import annotations

import random
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from checkpoints import (
    CHUNK_BYTES,
    assert_restores,
    begin,
    make_repository,
    make_state,
    orphans,
    packs,
    prune,
    read,
    save,
)
from holdfast.domain.names import CheckpointId
from holdfast.errors import DamagedError, FormatError, StorageError
from holdfast.repository import assembling, compact, layout, rewriting
from holdfast.repository.families import Family
from holdfast.repository.pack import PackBuilder, read_index
from holdfast.repository.repository import Repository
from holdfast.repository.retention import GRACE_SECONDS, sweep
from holdfast.repository.run import Run
from holdfast.repository.verify import Verifier
from holdfast.storage.local import LocalStorage
from simulated_store import SimulatedDisk, SimulatedStore

State = dict[str, bytes]


def squeezable(step: int) -> State:
    """Bytes of few values, zeros, noise, tied and tiny tensors."""
    rng = random.Random(step)
    few = bytes(rng.choices(b"\0\1\2", k=3 * CHUNK_BYTES + 11))
    return {
        "few": few,
        "zeros": bytes(2 * CHUNK_BYTES + 1),
        "noise": rng.randbytes(CHUNK_BYTES + 5),
        "tied": few,
        "tiny": rng.randbytes(3),
        "empty": b"",
    }


def filled(storage: object, steps: int = 3) -> tuple[Run, dict[CheckpointId, State]]:
    run = make_repository(storage).run("digits")  # type: ignore[arg-type]
    attempt = begin(run)
    known = {}
    for n in range(1, steps + 1):
        known[save(run, attempt, n, n, squeezable(n)).id] = squeezable(n)
    return run, known


@pytest.fixture
def storage(tmp_path: Path) -> LocalStorage:
    return LocalStorage(tmp_path / "repository", create=True)


def fresh(storage: object) -> Repository:
    return Repository.open(storage)  # type: ignore[arg-type]


def compacted(storage: object, names: set[str] | None = None) -> compact.Compacted:
    repository = fresh(storage)
    return compact.apply(compact.plan(repository, names))


def manifests(run: Run) -> dict[str, bytes]:
    return {k: run.storage.get(k) for k in run.storage.list(run.layout.checkpoints)}


def test_everything_restores_from_fewer_bytes(storage: LocalStorage) -> None:
    run, known = filled(storage)
    before = manifests(run)
    old = packs(storage)
    done = compacted(storage)
    assert (done.packs_removed, done.packs_written) == (len(old), 1)
    assert done.bytes_after < 0.6 * done.bytes_before
    assert not packs(storage) & old
    assert manifests(run) == before
    assert_restores(fresh(storage).run("digits"), known)
    assert orphans(run.repository) == set()


def test_hints_name_the_new_packs_so_that_readers_need_no_search(storage: LocalStorage) -> None:
    _run, known = filled(storage)
    compacted(storage)
    again = fresh(storage).run("digits")
    for checkpoint in known:
        assert {layout.pack(p) for p in again.hints(checkpoint)} == packs(storage)
        read(again, checkpoint)
    assert again.repository.index.unreadable == {}


def test_a_second_run_has_nothing_to_do(storage: LocalStorage) -> None:
    filled(storage)
    compacted(storage)
    before = packs(storage)
    assert compact.plan(fresh(storage)).victims == []
    assert compacted(storage).packs_written == 0
    assert packs(storage) == before


def test_incompressible_packs_settle_too(storage: LocalStorage) -> None:
    run = make_repository(storage).run("digits")
    attempt = begin(run)
    for n in (1, 2, 3):
        save(run, attempt, n, n)
    compacted(storage)
    assert compact.plan(fresh(storage)).victims == []


def test_dead_chunks_go(storage: LocalStorage) -> None:
    run, known = filled(storage)
    compacted(storage)
    prune(fresh(storage).run("digits"), 1, run.attempts()[-1].id)
    left = max(known, key=lambda c: c.step)
    assert run.all_checkpoints() == [left]
    done = compacted(storage)
    assert done.bytes_after < done.bytes_before
    needed = run.manifest(left).digests()
    index = fresh(storage).index
    index.load_all()
    assert {e.digest for p in index.packs() for e in index.entries(p)} == needed
    assert_restores(fresh(storage).run("digits"), {left: known[left]})


def test_only_the_packs_of_the_runs_asked_for(storage: LocalStorage) -> None:
    filled(storage)
    other = fresh(storage).run("other")
    made = save(other, begin(other), 1, 9, squeezable(9)).id
    own = set(other.hints(made))
    before = packs(storage)
    compacted(storage, {"digits"})
    assert before & packs(storage) == {layout.pack(p) for p in own}


def test_a_trainer_goes_on_and_relies_on_nothing_that_is_gone(storage: LocalStorage) -> None:
    run, known = filled(storage)
    attempt = run.attempts()[-1].id
    compacted(storage)
    known[save(run, attempt, 4, 4, squeezable(1)).id] = squeezable(1)
    assert_restores(fresh(storage).run("digits"), known)
    assert_restores(run, known)  # its index names packs that are gone


def test_a_reader_that_looked_before_reads_after(storage: LocalStorage) -> None:
    _run, known = filled(storage)
    reader = fresh(storage).run("digits")
    assert_restores(reader, known)
    compacted(storage)
    assert_restores(reader, known)


def test_a_damaged_manifest_stops_everything(storage: LocalStorage, tmp_path: Path) -> None:
    run, known = filled(storage)
    first = min(known, key=lambda c: c.step)
    path = tmp_path / "repository" / run.layout.checkpoint(first)
    path.write_bytes(b"x" + path.read_bytes()[1:])
    storage.delete(run.layout.hint(first))
    before = packs(storage)
    with pytest.raises(DamagedError, match="nothing was deleted"):
        compacted(storage)
    assert packs(storage) == before


def test_packs_of_a_damaged_manifest_are_left_alone(storage: LocalStorage, tmp_path: Path) -> None:
    run, known = filled(storage)
    first = min(known, key=lambda c: c.step)
    path = tmp_path / "repository" / run.layout.checkpoint(first)
    path.write_bytes(b"x" + path.read_bytes()[1:])
    pinned = {layout.pack(p) for p in run.hints(first)}
    compacted(storage)
    assert pinned <= packs(storage)
    del known[first]
    assert_restores(fresh(storage).run("digits"), known)


def test_a_damaged_chunk_keeps_its_pack(storage: LocalStorage, tmp_path: Path) -> None:
    run, known = filled(storage)
    damaged = max(known, key=lambda c: c.step)
    (own,) = set(run.hints(damaged)) - {p for c in known if c != damaged for p in run.hints(c)}
    path = tmp_path / "repository" / layout.pack(own)
    data = bytearray(path.read_bytes())
    data[100] ^= 1
    path.write_bytes(data)
    done = compacted(storage)
    assert done.unread == 1
    assert layout.pack(own) in packs(storage)
    state = known.pop(damaged)
    assert_restores(fresh(storage).run("digits"), known)
    with pytest.raises(DamagedError, match="was found damaged before"):
        read(fresh(storage).run("digits"), damaged)
    data[100] ^= 1
    path.write_bytes(data)  # such as from a backup
    assert compacted(storage).packs_written == 0
    for key in list(storage.list(layout.DAMAGED_PACKS)):
        storage.delete(key)
    assert_restores(fresh(storage).run("digits"), {damaged: state})


def test_a_plan_writes_nothing_not_even_of_damage(storage: LocalStorage, tmp_path: Path) -> None:
    run, _known = filled(storage)
    for pack_id in {p for c in run.checkpoints() for p in run.hints(c)}:
        path = tmp_path / "repository" / layout.pack(pack_id)
        data = bytearray(path.read_bytes())
        data[8:20_000] = bytes(reversed(data[8:20_000]))
        path.write_bytes(data)
    before = list(storage.list(""))
    compact.plan(fresh(storage))
    assert list(storage.list("")) == before


def test_a_pack_of_a_newer_version_is_left_alone(storage: LocalStorage) -> None:
    run, known = filled(storage, 1)
    (old,) = run.hints(next(iter(known)))
    entries = read_index(storage, old).entries
    data = storage.get(layout.pack(old))
    builder = PackBuilder(layout.new_pack_id())
    parts: list[bytes] = [data[:8]]
    for e in entries:
        builder.add(e.digest, e.raw_bytes, "tomorrow", e.stored_bytes)
        parts.append(data[e.offset : e.offset + e.stored_bytes])
    storage.put(layout.pack(builder.pack_id), [*parts, *builder.finish()])
    storage.delete(layout.pack(old))
    storage.delete(run.layout.hint(next(iter(known))))
    before = packs(storage)
    assert compacted(storage).packs_written == 0
    assert packs(storage) == before
    with pytest.raises(FormatError, match="tomorrow"):
        read(fresh(storage).run("digits"), next(iter(known)))


def test_a_new_pack_that_does_not_read_back_replaces_nothing(
    storage: LocalStorage, monkeypatch: pytest.MonkeyPatch
) -> None:
    run, known = filled(storage)
    before = packs(storage)
    put = LocalStorage.put

    def rotten(self: LocalStorage, key: str, parts: object) -> None:
        data = bytearray(b"".join(bytes(p) for p in parts))  # type: ignore[attr-defined]
        data[60] ^= 1
        put(self, key, [data])

    monkeypatch.setattr(LocalStorage, "put", rotten)
    with pytest.raises(StorageError, match="does not read back"):
        compacted(storage)
    monkeypatch.undo()
    assert packs(storage) == before
    assert fresh(storage).condemned_packs() == {}
    assert list(storage.list(layout.DAMAGED_PACKS)) == []
    assert_restores(run, known)


def test_busy_leaves_old_packs_and_a_later_prune_takes_them(storage: LocalStorage) -> None:
    run, known = filled(storage)
    old = packs(storage)
    repository = fresh(storage)
    planned = compact.plan(repository)
    with run.repository.holding():
        assert compact.apply(planned, wait_seconds=0).busy
    assert old < packs(storage)
    assert_restores(run, known)
    assert not sweep(fresh(storage), wait_seconds=0).busy
    assert not old & packs(storage)
    assert_restores(fresh(storage).run("digits"), known)
    assert orphans(run.repository) == set()


def test_a_prune_of_a_process_that_knew_only_the_old_packs_finishes_the_work(storage: LocalStorage) -> None:
    run, known = filled(storage)
    attempt = run.attempts()[-1].id
    old = packs(storage)
    repository = fresh(storage)
    planned = compact.plan(repository)
    with repository.holding():
        assert compact.apply(planned, wait_seconds=0).busy
    assert set(run.repository.index.packs()) == {layout.pack_id_of(p) for p in old}
    prune(run, 3, attempt, sweep=True)
    assert not old & packs(storage)
    assert fresh(storage).condemned_packs() == {}
    assert_restores(run, known)


def test_a_chunk_that_was_not_carried_over_keeps_its_pack(
    storage: LocalStorage, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whatever goes wrong before: marking under the lock has the last word."""
    run, known = filled(storage)
    old = packs(storage)
    whole = rewriting.groups

    def forgetful(*arguments: object) -> Iterator[list[Family]]:
        for group in whole(*arguments):  # type: ignore[arg-type]
            yield group[1::2]

    monkeypatch.setattr(rewriting, "groups", forgetful)
    compacted(storage)
    assert old & packs(storage)
    assert fresh(storage).condemned_packs() == {}
    assert_restores(fresh(storage).run("digits"), known)
    assert_restores(run, known)


def test_a_checkpoint_committed_after_the_plan_keeps_what_it_needs(storage: LocalStorage) -> None:
    """It names chunks that nothing needed when the plan was made, in packs that are rewritten."""
    run, known = filled(storage)
    attempt = run.attempts()[-1].id
    save(run, attempt, 4, 4, squeezable(1))
    prune(run, 1, attempt)  # its own checkpoint shares step 1's chunks; dead ones stay beside them
    repository = fresh(storage)
    planned = compact.plan(repository)
    late = save(run, attempt, 5, 5, squeezable(2) | {"zeros": squeezable(1)["few"]}).id
    compact.apply(planned)
    expected = {late: squeezable(2) | {"zeros": squeezable(1)["few"]}}
    assert_restores(fresh(storage).run("digits"), expected)
    assert_restores(run, expected)
    assert known


def test_without_locks_old_packs_wait_for_their_grace() -> None:
    disk = SimulatedDisk()
    run, known = filled(SimulatedStore(disk))
    disk.advance(GRACE_SECONDS + 1)
    old = packs(run.storage)
    done = compacted(SimulatedStore(disk))
    assert done.packs_removed == 0
    assert done.waiting == len(old)
    assert_restores(run, known)
    disk.advance(GRACE_SECONDS + 1)
    sweep(fresh(SimulatedStore(disk)))
    assert not old & packs(run.storage)
    assert_restores(run, known)
    assert_restores(fresh(SimulatedStore(disk)).run("digits"), known)


def test_packs_hold_chunks_of_one_checkpoint_where_they_are_large(
    storage: LocalStorage, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(assembling, "SMALL_BYTES", 4096)
    monkeypatch.setattr(compact, "SMALL_BYTES", 4096)
    _run, known = filled(storage)
    compacted(storage)
    hints = [set(fresh(storage).run("digits").hints(c)) for c in known]
    assert len(set.union(*hints)) >= 3


def test_batches_bound_what_is_there_twice(storage: LocalStorage, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(compact, "BATCH_BYTES", 1)
    _run, known = filled(storage)
    done = compacted(storage)
    assert done.packs_written == done.packs_removed == 3
    assert_restores(fresh(storage).run("digits"), known)


def test_numbers_are_encoded_by_their_dtype(tmp_path: Path) -> None:
    import holdfast

    rng = np.random.default_rng(1)
    state = {"w": (rng.standard_normal(300_000) * 0.02).astype("f4"), "m": np.zeros(100_000)}
    holdfast.save(tmp_path / "r", state, run="a", step=1)
    storage = LocalStorage(tmp_path / "r")
    done = compacted(storage)
    assert done.bytes_after < 0.75 * done.bytes_before
    index = fresh(storage).index
    index.load_all()
    assert {e.codec for p in index.packs() for e in index.entries(p)} >= {"planes", "constant"}
    loaded = holdfast.open(tmp_path / "r")["a"].latest.load()
    assert loaded["w"].tobytes() == state["w"].tobytes()
    repository = fresh(storage)
    verifier = Verifier(repository)
    for run in repository.runs():
        for checkpoint in run.checkpoints():
            verdict = verifier.check(run, checkpoint)
            assert verdict is not None
            assert verdict.ok


def test_small_ones_alone_are_left(storage: LocalStorage) -> None:
    run = make_repository(storage).run("digits")
    save(run, begin(run), 1, 1, make_state(1))
    assert compact.plan(fresh(storage)).victims == []


def test_beside_a_run_that_saves_in_the_background(tmp_path: Path) -> None:
    import holdfast

    rng = np.random.default_rng(2)
    frozen = (rng.standard_normal(40_000) * 0.02).astype("f4")
    state = {"frozen": frozen, "trained": np.zeros(20_000, "f4"), "zeros": np.zeros(5000)}
    seen = {}
    with holdfast.Checkpointer(tmp_path / "r", state, run="a", save="every 1 step", keep="last 3") as ckpt:
        for _ in ckpt.steps(12):
            state["trained"] += rng.standard_normal(20_000).astype("f4")
            step = ckpt.step(loss=1.0)
            seen[step] = state["trained"].tobytes()
            if step % 3 == 0:
                compacted(LocalStorage(tmp_path / "r"))
    run = holdfast.open(tmp_path / "r")["a"]
    assert [c.step for c in run][-1] == 12
    for checkpoint in run:
        checkpoint.verify()
        loaded = checkpoint.load()
        assert loaded["trained"].tobytes() == seen[checkpoint.step]
        assert loaded["frozen"].tobytes() == frozen.tobytes()
