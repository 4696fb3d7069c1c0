"""What must hold once everything is let go: of three repositories, and of all that was promised."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path

import holdfast
from checkpoints import orphans
from crash_scenarios import temporaries
from holdfast.node import lease
from holdfast.repository.repository import Repository
from holdfast.storage.local import LocalStorage
from torture_training import WAYS, train
from torture_work import check_promises, command, compare_one
from torture_world import World, require

MORE_STEPS = 5
Work = Callable[[], None]
Trained = Sequence[tuple[str, str]]
"""Runs that are not leaving, each with the way it is trained."""


def launch_again(world: World, run: str, way: str) -> None:
    """It resumes from its newest, at least from what was reported, trains on, and saves."""
    view = holdfast.open(world.places[0])
    before = view[run].latest.step if run in view and len(view[run]) else 0
    train(world, run, way, MORE_STEPS)
    if way in WAYS:
        require(view[run].latest.step == before + MORE_STEPS, f"{run} did not go on from {before}")


def settle(world: World) -> None:
    """Compact, bring all to the other repositories, and prune."""
    first, second, third = world.places
    command("compact", "-R", first)
    command("sync", first, second)
    command("sync", second, third)
    for place in world.places:
        command("prune", "--yes", "-R", place)
        command("verify", "-R", place)


def check(world: World, trained: Trained) -> None:
    """Look at everything."""
    for run, way in trained:
        check_promises(world, run)
        if way == "kept":
            _check_all_kept(world, run)
    first = holdfast.open(world.places[0])
    back = [run for run in world.runs if world.promises(run).leaving and run in first]
    require(not back, f"{back} were renamed or removed, and are there again")
    for place in world.places:
        _check_repository(world, place)
    _check_copy(*world.places[:2])
    _check_copy(*world.places[1:])


def _check_all_kept(world: World, run: str) -> None:
    there = {c.step for c in holdfast.open(world.places[0])[run]}
    gone = sorted(world.promises(run).every - there)
    require(not gone, f"{run} keeps all, but of steps reported durable {gone} are gone")


def _check_repository(world: World, place: str) -> None:
    for run in holdfast.open(place).runs():
        for checkpoint in run:
            require(compare_one(world, checkpoint), f"{checkpoint!r} cannot be restored")
    storage = LocalStorage(place)
    repository = Repository.open(storage)
    require(not orphans(repository), f"{place} has orphans after a prune: {orphans(repository)}")
    require(not list(storage.list("damaged/")), f"{place} has records of damage")
    for found in repository.runs():
        require(not found.rejected(), f"{place}: {found.name} has rejected checkpoints")
        holders = lease.holders(storage, found.layout.leases)
        require(not holders, f"{place}: {found.name} is held by {holders}")
    storage.sweep_temporaries(older_than_seconds=-60)
    # Of this place alone: what a kill left in the others is swept when they are looked at.
    require(not temporaries(Path(place)), f"temporary files are left: {temporaries(Path(place))}")


def _check_copy(source: str, target: str) -> None:
    """Whatever the one has, the other has, and would resume from the same."""
    here, there = (Repository.open(LocalStorage(place)) for place in (source, target))
    for run in here.runs():
        copy = there.run(run.name)
        lacking = {c.identity for c in run.checkpoints()} - {c.identity for c in copy.checkpoints()}
        require(not lacking, f"{target} lacks {lacking} of {run.name} after a sync")
        require(run.tags().keys() <= copy.tags().keys(), f"{target} lacks tags of {run.name}")
        latest, brought = run.latest(), copy.latest()
        require(latest == brought, f"{run.name} would resume from {brought} instead of {latest} at {target}")
