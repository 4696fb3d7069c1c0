"""Somebody else acts at every single operation of a fork and of a sync, with kernel locks and without."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass

import pytest

from checkpoints import assert_restores, begin, make_repository, make_state, orphans, prune, save
from holdfast.domain.names import AttemptId, CheckpointId
from holdfast.errors import BusyError, NotFoundError, StorageError
from holdfast.repository import compact
from holdfast.repository.forking import fork
from holdfast.repository.repository import Repository
from holdfast.repository.retention import GRACE_SECONDS, sweep
from holdfast.repository.run import Run
from holdfast.repository.sync_plan import Route
from holdfast.repository.syncing import sync_run
from simulated_store import SimulatedDisk, SimulatedStore

STEPS = (100, 200)
Act = Callable[["Trainer"], None]


def state(step: int) -> dict[str, bytes]:
    """Nothing in it is shared by two steps, so packs really go."""
    return make_state(step, frozen=str(step))


@dataclass
class Trainer:
    """Somebody who trains a run whose chunks the fork or the sync would rely on."""

    disk: SimulatedDisk
    run: Run
    attempt: AttemptId
    saved: int = 0

    @classmethod
    def of(cls, disk: SimulatedDisk, name: str) -> Trainer:
        run = make_repository(SimulatedStore(disk)).run(name)
        trainer = cls(disk, run, begin(run))
        for step in STEPS:
            trainer.save(step)
        return trainer

    def save(self, step: int) -> CheckpointId:
        self.saved += 1
        return save(self.run, self.attempt, self.saved, step, state(step)).id


def prunes(trainer: Trainer) -> None:
    trainer.save(300)
    prune(trainer.run, 1, trainer.attempt)


def sleeps_long_and_prunes(trainer: Trainer) -> None:
    """Longer than any grace."""
    prunes(trainer)
    for _ in range(2):
        trainer.disk.advance(GRACE_SECONDS + 1)
        prune(trainer.run, 1, trainer.attempt, sweep=True)


def sweeps(trainer: Trainer) -> None:
    sweep(Repository.open(SimulatedStore(trainer.disk)), wait_seconds=0)


def compacts(trainer: Trainer) -> None:
    repository = Repository.open(SimulatedStore(trainer.disk))
    compact.apply(compact.plan(repository), wait_seconds=0)


ACTS = [prunes, sleeps_long_and_prunes, sweeps, compacts]


class Interruption:
    """Acts ahead of one operation."""

    def __init__(self, trainer: Trainer, act: Act, moment: int) -> None:
        self._trainer, self._act, self._moment = trainer, act, moment
        self.reached = False

    def __call__(self, number: int, verb: str, key: str) -> None:
        if number == self._moment:
            self.reached = True
            with suppress(BusyError, StorageError):  # under the other one's lock; the real one waits
                self._act(self._trainer)


def fresh(disk: SimulatedDisk) -> Repository:
    return Repository.open(SimulatedStore(disk))


@pytest.mark.parametrize("has_locks", [True, False])
@pytest.mark.parametrize("act", ACTS)
def test_a_fork_holds_whatever_happens_meanwhile(act: Act, has_locks: bool) -> None:
    moment, made = -1, 0
    while True:
        moment += 1
        disk = SimulatedDisk(has_locks=has_locks)
        trainer = Trainer.of(disk, "digits")
        interruption = Interruption(trainer, act, moment)
        store = SimulatedStore(disk, before=interruption)
        found = None
        with suppress(NotFoundError, BusyError):  # what it was to fork is gone
            run = Repository.open(store).run("digits")
            found = fork(run, run.resolve(STEPS[0]), "branch").id
        if not interruption.reached:
            break
        sleeps_long_and_prunes(trainer)
        branch = fresh(disk).run("branch")
        assert branch.latest() == found
        assert_restores(branch, {found: state(STEPS[0])} if found is not None else {})
        made += found is not None
    assert made > 1


@pytest.mark.parametrize("has_locks", [True, False])
@pytest.mark.parametrize("act", ACTS)
@pytest.mark.parametrize("side", ["source", "destination"])
def test_a_sync_holds_whatever_happens_meanwhile(side: str, act: Act, has_locks: bool) -> None:
    moment = -1
    while True:
        moment += 1
        here, there = (SimulatedDisk(has_locks=has_locks) for _ in range(2))
        source = Trainer.of(here, "digits")
        other = Trainer.of(there, "other")
        by = source if side == "source" else other
        interruption = Interruption(by, act, moment)
        stores = [SimulatedStore(here), SimulatedStore(there)]
        stores[side == "destination"].before = interruption
        done = sync_run(Route(*map(Repository.open, stores)), "digits")
        if not interruption.reached:
            break
        assert done.failed == {}
        sleeps_long_and_prunes(other)
        run = fresh(there).run("digits")
        assert_restores(run, {c: state(c.step) for c in run.checkpoints()})
        assert {c.step for c in run.checkpoints()} & {STEPS[1], 300}
        assert orphans(run.repository) == set()
    assert moment > 20
