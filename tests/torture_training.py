"""Trainers that are tortured: in the loop, in the background, with a mirror, by hand."""

from __future__ import annotations

import time
from typing import Any

import holdfast
import torture_model as model
from holdfast.domain.events import Event, Rejected, Saved, SaveFailed
from holdfast.errors import NotFoundError
from torture_world import CHANCE, Fact, World, require

ENDLESS = 10**9
DURABLE = "durable "
"""Begins a line of output for each save that was reported durable."""
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
    check_state(state, line, f"{run}, resumed from {step}", step)


def check_state(state: model.State, line: model.Line, what: str, step: int) -> None:
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
