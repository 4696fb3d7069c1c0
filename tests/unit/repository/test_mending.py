"""Mending by another repository: whole again, or untouched, and never worse."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from checkpoints import (
    CHUNK_BYTES,
    assert_restores,
    begin,
    drifting,
    keys,
    make_repository,
    orphans,
    prune,
    read,
    save,
)
from holdfast.domain.names import CheckpointId
from holdfast.repository import compact, layout
from holdfast.repository.mending import Mended, Mender
from holdfast.repository.repository import Repository
from holdfast.repository.run import Run
from holdfast.repository.verify import Verdict, Verifier
from holdfast.storage.memory import MemoryStorage
from simulated_store import Fault, SimulatedCrash, SimulatedDisk, SimulatedStore
from syncs import a_copy, another, synced

Damage = Callable[[Run, CheckpointId], None]


def flip(run: Run, key: str, at: int) -> None:
    data = bytearray(run.storage.get(key))
    data[at] ^= 0x10
    run.storage.put(key, [bytes(data)])


def packs_of(run: Run, checkpoint: CheckpointId) -> list[str]:
    return [layout.pack(pack_id) for pack_id in run.hints(checkpoint)]


def flip_chunk(run: Run, checkpoint: CheckpointId) -> None:
    flip(run, packs_of(run, checkpoint)[0], 4096 + 5)


def flip_every_pack(run: Run, checkpoint: CheckpointId) -> None:
    for key in packs_of(run, checkpoint):
        flip(run, key, 100)


def flip_trailer(run: Run, checkpoint: CheckpointId) -> None:
    flip(run, packs_of(run, checkpoint)[0], -20)


def lose_packs(run: Run, checkpoint: CheckpointId) -> None:
    for key in packs_of(run, checkpoint):
        run.storage.delete(key)


def flip_manifest(run: Run, checkpoint: CheckpointId) -> None:
    flip(run, run.layout.checkpoint(checkpoint), 30)


def cut_manifest(run: Run, checkpoint: CheckpointId) -> None:
    key = run.layout.checkpoint(checkpoint)
    run.storage.put(key, [run.storage.get(key)[:-7]])


def lose_hint(run: Run, checkpoint: CheckpointId) -> None:
    flip_every_pack(run, checkpoint)
    run.storage.delete(run.layout.hint(checkpoint))


def flip_all(run: Run, checkpoint: CheckpointId) -> None:
    flip_every_pack(run, checkpoint)
    flip_manifest(run, checkpoint)


DAMAGES = [
    flip_chunk,
    flip_every_pack,
    flip_trailer,
    lose_packs,
    flip_manifest,
    cut_manifest,
    lose_hint,
    flip_all,
]


def verify(run: Run) -> list[Verdict]:
    """As the command does: what is found is recorded."""
    verifier = Verifier(Repository.open(run.storage))
    verdicts = [v for c in run.checkpoints() if (v := verifier.check(run, c)) is not None]
    verifier.record(verdicts)
    return verdicts


def mend(run: Run, other: Repository) -> list[Mended]:
    verdicts = verify(run)
    return Mender(Repository.open(run.storage), Repository.open(other.storage)).all_of(verdicts)


@pytest.fixture
def run() -> Run:
    """Three checkpoints, of which the last two share most chunks."""
    made = make_repository(MemoryStorage()).run("digits")
    attempt = begin(made)
    for number in (1, 2, 3):
        save(made, attempt, number, number * 100)
    return made


def states(run: Run) -> dict[CheckpointId, dict[str, bytes]]:
    return {c: read(run, c) for c in run.checkpoints()}


@pytest.mark.parametrize("make", [a_copy, lambda run: another(), lambda run: another(3 * CHUNK_BYTES)])
@pytest.mark.parametrize("damage", DAMAGES)
def test_what_is_damaged_here_is_whole_again_by_what_is_there(
    run: Run, damage: Damage, make: Callable[[Run], Repository]
) -> None:
    expected, other = states(run), make(run)
    synced(run, other)
    damage(run, run.resolve(300))
    mended = mend(run, other)
    assert mended
    assert [m.failed for m in mended] == [None] * len(mended)
    fresh = Repository.open(run.storage).run("digits")
    assert fresh.rejected() == set()
    assert_restores(fresh, expected)
    assert all(verdict.ok for verdict in verify(fresh))
    assert fresh.latest() == max(expected, key=lambda c: c.step)


def test_damage_there_is_mended_from_here(run: Run) -> None:
    other = another()
    synced(run, other)
    there = Repository.open(other.storage).run("digits")
    expected = states(there)
    flip_all(there, there.resolve(200))
    mended = mend(there, run.repository)
    assert mended
    assert all(m.failed is None for m in mended)
    assert_restores(Repository.open(other.storage).run("digits"), expected)


def test_only_what_is_lacking_moves(run: Run) -> None:
    other = a_copy(run)
    synced(run, other)
    flip(run, packs_of(run, run.resolve(300))[-1], 100)
    (mended,) = mend(run, other)
    assert 0 < mended.moved_bytes <= CHUNK_BYTES


def test_chunks_come_from_a_repository_that_lacks_the_checkpoint(run: Run) -> None:
    other = a_copy(run)
    synced(run, other)
    there = other.run("digits")
    save(there, begin(there), 1, 900, read(run, run.resolve(300)))
    there.storage.delete(there.layout.checkpoint(there.resolve(300)))
    expected = states(run)
    flip_every_pack(run, run.resolve(300))
    assert all(m.failed is None for m in mend(run, other))
    assert_restores(Repository.open(run.storage).run("digits"), expected)


@pytest.mark.parametrize("damage", [flip_every_pack, flip_manifest])
def test_what_the_other_lacks_or_has_damaged_too_stays_damaged_and_is_told(run: Run, damage: Damage) -> None:
    other, sick = another(), another()
    synced(run, sick)
    there = Repository.open(sick.storage).run("digits")
    damage(there, there.resolve(300))
    damage(run, run.resolve(300))
    before = {c for c in run.checkpoints() if c.step < 300}
    for place in (other, sick):
        mended = mend(run, place)
        assert mended
        assert all(m.failed for m in mended if m.id.step == 300)
        fresh = Repository.open(run.storage).run("digits")
        assert str(fresh.resolve(300)) in fresh.rejected()
        assert before <= set(fresh.checkpoints())


def test_a_checkpoint_of_another_history_is_not_taken_for_it(run: Run) -> None:
    """The same attempt and step, but other bytes: its manifest does not have the name."""
    other = a_copy(run)
    synced(run, other)
    there = other.run("digits")
    manifest = there.manifest(there.resolve(300))
    there.storage.delete(there.layout.checkpoint(there.resolve(300)))
    attempt = run.attempts()[0].id
    save(there, attempt, manifest.summary.sequence, 300, {"other": b"x" * 100})
    flip_manifest(run, run.resolve(300))
    (mended,) = mend(run, other)
    assert mended.failed is not None
    assert "another" in mended.failed


def test_encoded_chunks_and_their_bases_are_mended(run: Run) -> None:
    attempt = run.attempts()[-1].id
    for number in range(4, 10):
        save(run, attempt, number, number * 100, {"w": drifting(number)})
    expected, other = states(run), another()
    synced(run, other)
    compact.apply(compact.plan(run.repository))
    for key in keys(run.storage, layout.PACKS):
        if run.storage.stat(key) is not None:
            flip(run, key, 150)
    assert all(m.failed is None for m in mend(run, other))
    assert_restores(Repository.open(run.storage).run("digits"), expected)
    repository = Repository.open(run.storage)
    prune(repository.run("digits"), 2, begin(repository.run("digits")))
    assert orphans(Repository.open(run.storage)) == set()


@pytest.mark.parametrize("fault", [f for f in Fault if f.name.startswith("CRASH")])
def test_power_lost_at_any_operation_loses_nothing_and_the_next_try_mends(run: Run, fault: Fault) -> None:
    other = another()
    synced(run, other)
    expected = states(run)
    flip_all(run, run.resolve(300))
    verify(run)
    number = -1
    while True:
        number += 1
        disk = SimulatedDisk()
        for key in keys(run.storage):
            disk.change(key, run.storage.get(key), durable=True)
        store = SimulatedStore(disk, faults={number: fault})
        try:
            mend(Repository.open(store).run("digits"), other)
            break
        except SimulatedCrash:
            disk.lose_power()
        left = Repository.open(SimulatedStore(disk)).run("digits")
        assert {c.step for c in left.checkpoints()} == {100, 200, 300}
        mend(left, other)
        whole = Repository.open(SimulatedStore(disk)).run("digits")
        assert_restores(whole, expected)
        assert whole.rejected() == set()
    assert number > 15
