"""Somebody else acts at every single operation of a compaction, with kernel locks and without."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, field

import pytest

from checkpoints import State, begin, drifting, make_repository, prune, read, save
from holdfast.domain.names import AttemptId, CheckpointId
from holdfast.errors import BusyError, NotFoundError, StorageError
from holdfast.repository import compact
from holdfast.repository.repository import Repository
from holdfast.repository.retention import GRACE_SECONDS, sweep
from holdfast.repository.run import Run
from simulated_store import SimulatedCrash, SimulatedDisk, SimulatedStore

CONTENTS = {name: bytes([number]) * 5000 + bytes(range(200)) for number, name in enumerate("ABCDE")}
STEPS = {1: "AB", 2: "AC", 3: "ACD"}


@dataclass
class World:
    """A trainer whose packs hold a chunk (B) that nothing needs any more, but that it knows of."""

    disk: SimulatedDisk
    run: Run
    attempt: AttemptId
    known: dict[CheckpointId, State] = field(default_factory=dict)

    def save(self, step: int, letters: str) -> None:
        state = {letter: CONTENTS[letter] for letter in letters} | {"drift": drifting(step, 4096)}
        parent = next(reversed(self.known), None)
        self.known[save(self.run, self.attempt, step, step, state, parent).id] = state

    def prune(self, keep: int = 2) -> None:
        prune(self.run, keep, self.attempt)
        present, condemned = self.run.all_checkpoints(), self.run.condemned()
        self.known = {c: s for c, s in self.known.items() if c in present and str(c) not in condemned}

    def check(self) -> None:
        fresh = Repository.open(SimulatedStore(self.disk)).run("digits")
        for checkpoint, state in self.known.items():
            assert read(fresh, checkpoint) == state
            assert read(self.run, checkpoint) == state  # its index is as old as it is


def make_world(*, has_locks: bool) -> World:
    disk = SimulatedDisk(has_locks=has_locks)
    run = make_repository(SimulatedStore(disk)).run("digits")
    world = World(disk, run, begin(run))
    for step, letters in STEPS.items():
        world.save(step, letters)
    for _ in range(1 if has_locks else 3):
        world.prune()
        disk.advance(GRACE_SECONDS + 1)
    return world


def compaction(world: World, before: Callable[[int, str, str], None] | None = None) -> SimulatedStore:
    store = SimulatedStore(world.disk, before=before)
    # A StorageError: without locks, it slept for longer than the grace, and its new packs were taken away.
    with suppress(SimulatedCrash, BusyError, NotFoundError, StorageError):
        compact.apply(compact.plan(Repository.open(store)), wait_seconds=0)
    return store


def saves_again(world: World) -> None:
    """B comes back; its only copy may be in a pack that is being rewritten."""
    world.save(10, "BE")


def prunes(world: World) -> None:
    world.prune(1)


def sweeps(world: World) -> None:
    sweep(Repository.open(SimulatedStore(world.disk)), wait_seconds=0)


def sweeps_as_it_knows(world: World) -> None:
    sweep(world.run.repository, wait_seconds=0)


def compacts(world: World) -> None:
    compaction(world)


def restores(world: World) -> None:
    world.check()


def sleeps_long(world: World) -> None:
    world.save(10, "BE")
    for _ in range(2):
        world.disk.advance(GRACE_SECONDS + 1)
        sweeps(world)


STRIDE = 12
"""Each act meets one operation in twelve, acts and endings different ones."""
ACTS = [saves_again, prunes, sweeps, sweeps_as_it_knows, compacts, restores, sleeps_long]


class Interruption:
    """Acts ahead of one operation of a compaction, which then goes on or dies."""

    def __init__(self, world: World, act: Callable[[World], None], moment: int, *, dies: bool) -> None:
        self._world, self._act, self._moment, self._dies = world, act, moment, dies
        self.acted = False

    def __call__(self, number: int, verb: str, key: str) -> None:
        if number != self._moment:
            return
        with suppress(BusyError):  # under the compaction's lock; the real one waits
            self._act(self._world)
            self.acted = True
        if self._dies:
            raise SimulatedCrash


@pytest.mark.parametrize("has_locks", [True, False], ids=["locks", "graces"])
@pytest.mark.parametrize("act", ACTS, ids=lambda act: act.__name__)
@pytest.mark.parametrize("dies", [False, True], ids=["goes-on", "dies"])
def test_at_every_operation(act: Callable[[World], None], has_locks: bool, dies: bool) -> None:
    operations = len(compaction(make_world(has_locks=has_locks)).log)
    assert operations > 50
    acted = 0
    for moment in range((ACTS.index(act) + 2 * dies) % STRIDE, operations, STRIDE):
        world = make_world(has_locks=has_locks)
        interruption = Interruption(world, act, moment, dies=dies)
        compaction(world, interruption)
        acted += interruption.acted
        world.check()
        for _ in range(3):
            world.disk.advance(GRACE_SECONDS + 1)
            sweeps(world)
            world.check()
        world.save(20, "ABCDE")
        world.disk.advance(GRACE_SECONDS + 1)
        compaction(world)
        world.check()
    assert acted > operations / (2 * STRIDE)
