"""What each tortured process does: one function per kind, in a process of its own, killed at any moment."""

from __future__ import annotations

import signal
from collections.abc import Callable, Iterable
from typing import TypeVar

import holdfast
import torture_model as model
from holdfast.cli import app
from holdfast.errors import HoldfastError, NotFoundError
from holdfast.repository import cold, compact
from holdfast.training.views import RunView
from torture_training import check_state
from torture_world import CHANCE, Fact, World, WrongError, require

Found = TypeVar("Found")
COMPARED = "compared "
"""Begins a line of output for each checkpoint that was restored and is right."""


# -- readers -------------------------------------------------------------------------------


def compare(world: World, place: str, at_most: int = 5) -> None:
    """Restore some of the checkpoints that are listed, and compare."""
    view = holdfast.open(place)
    runs = view.runs()
    for run in CHANCE.sample(runs, min(2, len(runs))):
        listed = list(run)
        for checkpoint in CHANCE.sample(listed, min(at_most, len(listed))):
            compare_one(world, checkpoint)


def compare_one(world: World, checkpoint: holdfast.Checkpoint) -> bool:
    """Whether it could be restored, exactly; if not it is gone, and says so."""
    line = world.line(checkpoint.run)
    state = model.fresh(line)
    try:
        checkpoint.load(into=state)
    except NotFoundError:
        require(not _is_listed(checkpoint), f"{checkpoint!r} is listed but not found")
        return False
    check_state(state, line, f"{checkpoint!r} restored", checkpoint.step)
    print(f"{COMPARED}{checkpoint.run}@{checkpoint.step}", flush=True)
    return True


def _is_listed(checkpoint: holdfast.Checkpoint) -> bool:
    view = holdfast.open(checkpoint._run.storage.location)
    return checkpoint.run in view and checkpoint.id in {c.id for c in view[checkpoint.run]}


def check_promises(world: World, run: str) -> None:
    """The newest one reported, or a later one, and all tagged ones are there, exactly."""
    before = world.promises(run)
    if not before.newest or before.leaving:
        return
    try:
        _check_promises(world, run, before.newest, before.tagged)
    except (WrongError, NotFoundError) as error:
        after = world.promises(run)
        if not after.leaving and after.tagged.keys() >= before.tagged.keys():
            raise WrongError(str(error)) from error


def _check_promises(world: World, run: str, newest: int, tagged: dict[str, int]) -> None:
    view = holdfast.open(world.places[0])[run]
    latest = view.latest.step
    require(latest >= newest, f"{run} would resume from {latest}, but {newest} had been reported durable")
    there = view.tags
    for tag, step in tagged.items():
        require(tag in there and there[tag].step == step, f"{run}@{step} was tagged {tag}; tags are {there}")
        require(compare_one(world, there[tag]), f"{run}@{step} was tagged {tag} and is gone")


# -- those who change something --------------------------------------------------------------


def _any(found: Iterable[Found]) -> Found:
    choices = list(found)
    if not choices:
        raise NotFoundError("There is nothing to choose from.")
    return CHANCE.choice(choices)


def _any_run(world: World) -> RunView:
    return _any(holdfast.open(world.places[0]).runs())


def fork(world: World, new: str, seed: int) -> None:
    """Fork any run anywhere."""
    run = _any_run(world)
    checkpoint = _any([*run, run.latest])
    world.put_line(new, world.line(run.name).forked(checkpoint.step, seed))
    checkpoint.fork(new)


def tag(world: World, name: str) -> None:
    """Tag any checkpoint of any run; now and then take a tag away."""
    run = _any_run(world)
    old = sorted(run.tags)
    if old and CHANCE.random() < 0.4:
        world.report(run.name, Fact(untagged=old[0]))
        command("tag", run.name, old[0], "--delete", "-R", world.places[0])
        return
    step = _any(run).step
    command("tag", f"{run.name}@{step}", name, "-R", world.places[0])
    world.report(run.name, Fact(durable=step, tagged=name))


def remove_one(world: World) -> None:
    """Remove the oldest checkpoint of any run that has several."""
    run = _any_run(world)
    steps = [c.step for c in run]
    if len(set(steps)) > 2 and not run.name.startswith("kept"):
        command("rm", f"{run.name}@{min(steps)}", "--yes", "-R", world.places[0])


def remove_run(world: World, run: str) -> None:
    world.report(run, Fact(leaving=True))
    command("rm", run, "--yes", "--force", "-R", world.places[0])


def rename(world: World, run: str, new: str) -> None:
    world.put_line(new, world.line(run))
    world.report(run, Fact(leaving=True))
    command("mv", run, new, "-R", world.places[0])


def rewrite(place: str) -> None:
    """Compact, in batches of any size, now and then with everything taken for cold and worth it."""
    compact.BATCH_BYTES = CHANCE.choice([1 << 20, 8 << 20, compact.BATCH_BYTES])
    if CHANCE.random() < 0.4:
        cold.WARM, compact.LEAST_HARD_GAIN = 0, -1.0
        command("compact", "--cold", "-R", place)
    else:
        command("compact", "-R", place)


def command(*words: str) -> None:
    """One of the command line's verbs, in this process."""
    print("holdfast", *words, flush=True)
    code = app.run(words)
    if code:
        raise SystemExit(code)


# -- how they end ----------------------------------------------------------------------------

WRONG, BROKEN = 70, 71
"""Exit codes: something is not as it must be; something was raised that nobody should see."""


def exit_code(work: Callable[[], None], seed: int) -> int:
    """Do it; what a process that did it ends with."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # meant for who started it
    CHANCE.seed(seed)
    try:
        work()
    except HoldfastError as error:
        print(f"{error.kind}: {error}", flush=True)
        return error.exit_code
    except WrongError as error:
        print(f"WRONG: {error}", flush=True)
        return WRONG
    except SystemExit as leaving:
        return leaving.code if isinstance(leaving.code, int) else BROKEN
    return 0
