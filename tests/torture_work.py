"""What each tortured process does: one function per kind, in a process of its own, killed at any moment."""

from __future__ import annotations

import random
import signal
import time
from collections.abc import Callable, Iterable
from typing import Any, TypeVar

import holdfast
import torture_model as model
from holdfast.cli import app
from holdfast.domain.events import Event, Rejected, Saved, SaveFailed
from holdfast.errors import HoldfastError, NotFoundError
from holdfast.repository import compact
from holdfast.training.views import RunView
from torture_world import Fact, World

Found = TypeVar("Found")
ENDLESS = 10**9
COMPARED = "compared "
"""Begins a line of output for each checkpoint that was restored and is right."""
DURABLE = "durable "
"""Begins one for each save that was reported durable."""
CHANCE = random.Random()
"""Python's own generator is part of the training state."""


class WrongError(AssertionError):
    """Something is not as it must be."""


def require(condition: object, what: str) -> None:
    if not condition:
        raise WrongError(what)


# -- trainers ------------------------------------------------------------------------------

WAYS: dict[str, dict[str, Any]] = {
    "loop": {"background": False, "save": "every 3 steps", "keep": "last 3"},
    "back": {"background": True, "save": "every 2 steps", "keep": "last 2, every 40 steps"},
    "skip": {"background": True, "save": "every 1 step", "keep": "last 2", "on_busy": "replace"},
    "held": {"background": True, "save": "memory every 1 step, disk every 8 steps", "keep": "last 3"},
    "idle": {"background": True, "save": "every 2 steps", "keep": "last 6", "compact": "idle"},
    "mirr": {"background": True, "save": "every 4 steps", "keep": "last 3", "mirror_keep": "last 4"},
    "kept": {"background": True, "save": "every 30 steps", "keep": "all"},
}
"""How runs are trained with a Checkpointer; there is also ``hand``, with `holdfast.save`."""


def train(world: World, run: str, way: str, steps: int = ENDLESS) -> None:
    """Resume, compare, and train on, telling the disk of each save once it is durable."""
    if way == "hand":
        _train_by_hand(world, run, steps)
        return
    line, promised = world.line(run), world.promises(run)
    state = model.fresh(line)
    mirror = world.places[1] if "mirror_keep" in WAYS[way] else None
    ckpt = holdfast.Checkpointer(world.places[0], state, run=run, mirror=mirror, **WAYS[way])
    ckpt._listeners.append(lambda event: _told(world, event))
    with ckpt:
        restored = ckpt.restored.step if ckpt.restored is not None else 0
        _check_resumed(state, line, run, restored, promised.newest)
        asked: list[holdfast.Save] = []
        for _ in ckpt.steps(restored + steps):
            model.advance(state, line)
            ckpt.step(loss=1.0 / (1 + state["step"]))
            asked = [save for save in asked if not _tagged(world, run, save)]
            if CHANCE.random() < 0.03:
                asked.append(ckpt.save(tag=f"live-{state['step']}"))
            time.sleep(0.02 * CHANCE.random())


def _check_resumed(state: model.State, line: model.Line, run: str, step: int, least: int) -> None:
    require(step >= least, f"{run} resumes from step {step}, but {least} had been reported durable")
    _check_state(state, line, f"{run}, resumed from {step}", step)


def _check_state(state: model.State, line: model.Line, what: str, step: int) -> None:
    wrong = model.differences(state, model.expected(line, step))
    require(not wrong, f"{what}: {', '.join(wrong)} differ from what training makes of it")


def _told(world: World, event: Event) -> None:
    require(not isinstance(event, Rejected | SaveFailed), f"{event.run}: {event}")
    if isinstance(event, Saved):
        _report(world, event.run, event.step)


def _report(world: World, run: str, step: int, tag: str | None = None) -> None:
    world.report(run, Fact(durable=step, tagged=tag))
    print(f"{DURABLE}{run}@{step}", flush=True)


def _tagged(world: World, run: str, save: holdfast.Save) -> bool:
    """Report a save that is durable with its tag; whether its outcome is known."""
    require(save.error is None, f"{run}: {save.error}")
    if save.checkpoint is not None:
        world.report(run, Fact(durable=save.checkpoint.step, tagged=save.tag))
    return save.done


def _train_by_hand(world: World, run: str, steps: int) -> None:
    line, promised = world.line(run), world.promises(run)
    state = model.fresh(line)
    try:
        step = holdfast.load(world.places[0], state, run=run).step
    except NotFoundError:
        step = 0
    _check_resumed(state, line, run, step, promised.newest)
    for number in range(step + 1, step + steps + 1):
        model.advance(state, line)
        if number % 4 == 0:
            tag = f"hand-{number}" if number % 40 == 0 else None
            holdfast.save(world.places[0], state, step=number, run=run, tag=tag)
            _report(world, run, number, tag)
        time.sleep(0.02 * CHANCE.random())


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
        listed = (
            {c.id for c in holdfast.open(_place(checkpoint))[checkpoint.run]} if _exists(checkpoint) else ()
        )
        require(checkpoint.id not in listed, f"{checkpoint!r} is listed but not found")
        return False
    _check_state(state, line, f"{checkpoint!r} restored", checkpoint.step)
    print(f"{COMPARED}{checkpoint.run}@{checkpoint.step}", flush=True)
    return True


def _place(checkpoint: holdfast.Checkpoint) -> str:
    return checkpoint._run.storage.location


def _exists(checkpoint: holdfast.Checkpoint) -> bool:
    return checkpoint.run in holdfast.open(_place(checkpoint))


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
    """Compact, in batches of any size."""
    compact.BATCH_BYTES = CHANCE.choice([1 << 20, 8 << 20, compact.BATCH_BYTES])
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
