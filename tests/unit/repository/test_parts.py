"""A checkpoint of several ranks: whole or not at all, whoever dies when, and never of two saves."""

from __future__ import annotations

import itertools
import random
from typing import Any

import msgspec
import pytest

from checkpoints import (
    BytesTensor,
    State,
    begin,
    draft,
    keys,
    make_repository,
    make_state,
    orphans,
    prune,
)
from holdfast.domain.manifest import Manifest
from holdfast.domain.names import AttemptId, CheckpointId
from holdfast.domain.ranks import of_rank
from holdfast.errors import DamagedError, HoldfastError, StorageError
from holdfast.repository import layout
from holdfast.repository.commit import Draft, Gather, commit, encode_details
from holdfast.repository.forking import fork
from holdfast.repository.parts import join_parts, put_part, read_part, remove_parts, write_part
from holdfast.repository.reading import read_tensors
from holdfast.repository.repository import Repository
from holdfast.repository.retention import packs_of, sweep
from holdfast.repository.run import Run
from holdfast.repository.sync_plan import Route
from holdfast.repository.syncing import sync_run
from holdfast.repository.verify import Verifier
from holdfast.repository.writing import Written
from holdfast.storage.base import Storage
from holdfast.storage.memory import MemoryStorage
from mortal_storage import Killed, Mortal

WORLD = 3


def states(step: int) -> list[dict[str, bytes]]:
    """What each rank has at a step: the model is the same, two buffers are not."""
    model = make_state(step)
    return [
        model | {f"own.{step}": f"{rank} at {step}".encode(), "buffer": drawn(rank, step)}
        for rank in range(WORLD)
    ]


def drawn(rank: int, step: int) -> bytes:
    return random.Random(f"{rank}/{step}").randbytes(5000)


def save_together(run: Run, attempt: AttemptId, sequence: int, step: int) -> CheckpointId:
    """As ranks do it, here one after the other, each with its own view of the repository."""
    drafts = [draft(attempt, sequence, step, state) for state in states(step)]
    names: dict[int, CheckpointId] = {}

    def join(manifest: Manifest, written: Written, gather: Gather) -> tuple[Manifest, Written, Gather]:
        first = put_part(run, 0, manifest, list(written.new_packs))
        for rank in range(1, WORLD):
            names[rank] = elsewhere(run, drafts[rank], rank, first)
        joined = join_parts(run, manifest, written, gather, names)
        names[0] = first
        return joined

    committed = commit(run, drafts[0], join=join)
    remove_parts(run, names)
    return committed.id


def elsewhere(run: Run, one: Draft, rank: int, first: CheckpointId) -> CheckpointId:
    other = Repository.open(run.storage).run(run.name)
    return write_part(other, one, encode_details(one), rank, first)


def read(run: Run, checkpoint: CheckpointId, rank: int) -> State:
    manifest = of_rank(run.manifest(checkpoint), rank)
    targets = {name: BytesTensor(spec.size_bytes) for name, spec in manifest.specs().items()}
    read_tensors(run.repository.reader, manifest, run.hints(checkpoint), list(targets.items()), "it")
    return {name: bytes(target.data) for name, target in targets.items()}


def assert_restores(run: Run, checkpoint: CheckpointId) -> None:
    for rank, state in enumerate(states(checkpoint.step)):
        assert read(run, checkpoint, rank) == state


def reopened(storage: Storage) -> Run:
    return Repository.open(storage).run("digits")


@pytest.fixture
def run() -> Run:
    return make_repository(MemoryStorage()).run("digits")


def test_every_rank_gets_its_own_back_and_the_model_is_held_once(run: Run) -> None:
    attempt = begin(run)
    made = [save_together(run, attempt, n, n * 10) for n in (1, 2)]
    for checkpoint in made:
        assert_restores(reopened(run.storage), checkpoint)
        assert Verifier(run.repository).check(reopened(run.storage), checkpoint).ok
    assert not orphans(run.repository)
    assert not keys(run.storage, run.layout.parts)
    distinct = {data for state in states(10) for data in state.values()}
    assert run.summary(made[0]).size_bytes == sum(map(len, states(10)[0].values())) + sum(
        len(state[name]) for state in states(10)[1:] for name in ("own.10", "buffer")
    )
    stored = sum(e.stored_bytes for p in packs_of(run, made[0]) for e in _entries(run, p))
    assert stored == sum(map(len, distinct))


def _entries(run: Run, pack: str):
    fresh = Repository.open(run.storage)
    fresh.index.load_all()
    return fresh.index.entries(pack)


def test_retention_keeps_what_any_rank_needs(run: Run) -> None:
    attempt = begin(run)
    made = [save_together(run, attempt, n, n * 10) for n in range(1, 5)]
    prune(run, 2, attempt, sweep=True)
    assert run.checkpoints() == made[2:]
    for checkpoint in made[2:]:
        assert_restores(reopened(run.storage), checkpoint)
    assert not orphans(run.repository)


def test_a_fork_and_a_copy_elsewhere_are_of_all_ranks(run: Run) -> None:
    attempt = begin(run)
    checkpoint = save_together(run, attempt, 1, 10)
    twin = run.repository.run("twin")
    fork(run, checkpoint, "twin")
    assert_restores(reopened(run.storage).repository.run("twin"), twin.checkpoints()[0])
    there = make_repository(MemoryStorage())
    sync_run(Route(run.repository, there), "digits")
    assert_restores(there.run("digits"), there.run("digits").checkpoints()[0])


def test_killed_at_any_change_it_is_there_whole_or_not_at_all() -> None:
    for left in itertools.count():
        storage = Mortal()
        run = make_repository(storage).run("digits")
        attempt = begin(run)
        first = save_together(run, attempt, 1, 10)
        storage.left = left
        try:
            save_together(run, attempt, 2, 20)
        except Killed:
            storage.left = 10**9
        else:
            break
        later = reopened(storage)
        for checkpoint in later.checkpoints():
            assert_restores(later, checkpoint)
        assert first in later.checkpoints()
        sweep(later.repository)
        assert not orphans(later.repository)
        assert not keys(storage, later.layout.parts)
        again = begin(later)
        assert_restores(later, save_together(later, again, 1, 30))
    assert left > 10  # it was killed at many


def test_a_part_that_does_not_verify_ends_the_save_and_nothing_else(run: Run) -> None:
    attempt = begin(run)
    first = save_together(run, attempt, 1, 10)
    drafts = [draft(attempt, 2, 20, state) for state in states(20)]

    def join(manifest: Manifest, written: Written, gather: Gather) -> tuple[Manifest, Written, Gather]:
        head = put_part(run, 0, manifest, list(written.new_packs))
        name = elsewhere(run, drafts[1], 1, head)
        key = run.layout.part(name, 1)
        data = bytearray(run.storage.get(key))
        data[len(data) // 2] ^= 1
        run.storage.put(key, [bytes(data)])
        return join_parts(run, manifest, written, gather, {1: name})

    with pytest.raises(DamagedError):
        commit(run, drafts[0], join=join)
    assert run.checkpoints() == [first]
    assert_restores(reopened(run.storage), first)


def test_parts_of_two_saves_are_never_mixed(run: Run) -> None:
    attempt = begin(run)
    drafts = [draft(attempt, n, n * 10, states(n * 10)[1]) for n in (1, 2)]

    def elsewhere_in_training(manifest: Manifest, written: Written, gather: Gather) -> Any:
        first = put_part(run, 0, manifest, list(written.new_packs))
        return join_parts(run, manifest, written, gather, {1: elsewhere(run, drafts[1], 1, first)})

    def of_another_save(manifest: Manifest, written: Written, gather: Gather) -> Any:
        first = put_part(run, 0, manifest, list(written.new_packs))
        late = msgspec.structs.replace(elsewhere(run, drafts[0], 1, first), sequence=9)
        return join_parts(run, manifest, written, gather, {1: late})

    for join, why in ((elsewhere_in_training, "at step 20 where"), (of_another_save, "another save")):
        with pytest.raises(HoldfastError, match=why):
            commit(run, drafts[0], join=join)
        assert run.checkpoints() == []


def test_packs_of_another_rank_that_go_before_the_commit_fail_it(run: Run) -> None:
    attempt = begin(run)
    drafts = [draft(attempt, 1, 10, state) for state in states(10)]

    def join(manifest: Manifest, written: Written, gather: Gather) -> tuple[Manifest, Written, Gather]:
        first = put_part(run, 0, manifest, list(written.new_packs))
        name = elsewhere(run, drafts[1], 1, first)
        whole = join_parts(run, manifest, written, gather, {1: name})
        theirs = set(whole[1].used_packs)
        run.storage.delete(layout.pack(theirs.pop()))
        return whole

    with pytest.raises(StorageError, match="another rank wrote"):
        commit(run, drafts[0], join=join)


def test_every_flip_of_a_part_is_noticed(run: Run) -> None:
    attempt = begin(run)
    kept: list[CheckpointId] = []

    def join(manifest: Manifest, written: Written, gather: Gather) -> tuple[Manifest, Written, Gather]:
        kept.append(put_part(run, 0, manifest, list(written.new_packs)))
        return manifest, written, gather

    commit(run, draft(attempt, 1, 10, states(10)[0]), join=join)
    key = run.layout.part(kept[0], 0)
    data = run.storage.get(key)
    for place in range(0, len(data), 11):
        run.storage.put(key, [data[:place] + bytes([data[place] ^ 1]) + data[place + 1 :]])
        with pytest.raises(DamagedError):
            read_part(run, 0, kept[0])
