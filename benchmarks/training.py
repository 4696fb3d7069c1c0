"""Training while it is saved, in one process: python training.py SIZE ROTATIONS LONG FOLDER RESULT.json

Every rotation measures the limit and then gives each way of saving its turn, in an order that
rotates. A turn is some steps with a save every ten, after two saves that are not counted: the first
ones take memory, start processes and prove what may be copied behind the next step. Where LONG is 1,
or the size is small, the last turn of each goes on with one save in a hundred steps.
"""

from __future__ import annotations

import json
import os
import shutil
import sys
import time
import traceback
from pathlib import Path
from typing import Any, NamedTuple

from limit import Limit
from measure import settle
from sizes import SHAPES, Shape
from training_figures import EVERY, RARELY
from training_model import Trainer
from training_ways import WAYS, Way

WARM_STEPS = 6
WARM_SAVES = frozenset({0, 3})
FIRST_SAVE = 3
"""Step of a turn that saves first: some before it and some after the last one do not."""


class Plan(NamedTuple):
    """Steps to take, and after which of them to save."""

    steps: int
    saves: frozenset[int]


def plan(steps: int, every: int) -> Plan:
    return Plan(steps, frozenset(range(FIRST_SAVE, steps, every)))


class Training:
    """The turns of one size, and what they gave."""

    def __init__(self, shape: Shape, folder: Path, rotations: int, *, long: bool) -> None:
        self._shape = shape
        self._folder = folder
        self._trainer = Trainer(shape)
        self._trainer.learn()
        self._trainer.step()
        self._rotations = rotations or shape.rotations
        self._long = long or shape.long_turn
        self._state_bytes = sum(tensor.nbytes for tensor in self._trainer.tensors)
        self._turns: dict[str, list[dict[str, Any]]] = {name: [] for name in WAYS}
        self._failed: dict[str, str] = {}

    def measure(self) -> dict[str, Any]:
        limit = Limit(self._folder, self._state_bytes)
        limits = []
        for rotation in range(self._rotations):
            limits.append(limit.measure())
            names = list(WAYS)
            turn = rotation * 3 % len(names)
            for name in names[turn:] + names[:turn]:
                if name not in self._failed:
                    self._attempt(name, rotation)
        return {
            "state_bytes": self._state_bytes,
            "tensors": len(self._trainer.tensors),
            "shape": self._shape._asdict(),
            "limit": limits,
            "turns": self._turns,
            "failed": self._failed,
        }

    def _attempt(self, name: str, rotation: int) -> None:
        """Give it its turn; one that cannot save here is named in the results, not left out."""
        folder = self._folder / f"turn-{rotation}"
        settle()
        try:
            turn = self._turn(name, folder, last=rotation == self._rotations - 1)
        except Exception as error:
            self._failed[name] = f"{type(error).__name__}: {error}"
            print(f"  {name} FAILED: {self._failed[name]}", flush=True)
            return
        finally:
            shutil.rmtree(folder, ignore_errors=True)
        self._turns[name].append(turn)
        taken = sum(turn["often"]["steps"]) / len(turn["often"]["steps"])
        print(f"  {rotation + 1}/{self._rotations}  {name}: {taken:.3f} s per step", flush=True)

    def _turn(self, name: str, folder: Path, *, last: bool) -> dict[str, Any]:
        with WAYS[name](self._trainer, folder) as way:
            turn = {"first": train(self._trainer, way, Plan(WARM_STEPS, WARM_SAVES))}
            turn["often"] = train(self._trainer, way, plan(self._shape.segment_steps, EVERY))
            if last and self._long:
                turn["rarely"] = train(self._trainer, way, plan(RARELY, RARELY))
        return turn


def train(trainer: Trainer, way: Way, plan: Plan) -> dict[str, Any]:
    """Seconds of each step, from one safe point's end to the next one's, and of each call in it."""
    steps, inside = [], []
    way.durable_seconds.clear()
    before = time.perf_counter()
    for number in range(plan.steps):
        trainer.learn()
        waiting = time.perf_counter()
        way.before_step()
        waited = time.perf_counter() - waiting
        trainer.step()
        saving = time.perf_counter()
        way.after_step(due=number in plan.saves)
        now = time.perf_counter()
        steps.append(now - before)
        inside.append(waited + now - saving)
        before = now
    way.finish()
    return {
        "steps": steps,
        "inside": inside,
        "saves": sorted(plan.saves),
        "durable": list(way.durable_seconds),
    }


def _divert_errors(log: Path) -> None:
    """Ways and the processes they start tell of each save on standard error."""
    with log.open("w") as opened:
        os.dup2(opened.fileno(), 2)


def _warnings(log: Path) -> list[str]:
    return [line for line in log.read_text().splitlines() if "WARNING" in line]


def main() -> None:
    size, rotations, long, folder, result = sys.argv[1:6]
    log = Path(folder) / "errors.log"
    _divert_errors(log)
    try:
        training = Training(SHAPES[size], Path(folder), int(rotations), long=long == "1")
        measured = training.measure()
    except BaseException:
        print(log.read_text(), traceback.format_exc(), flush=True)
        raise
    measured["warnings"] = _warnings(log)
    for warning in measured["warnings"]:
        print(f"  {warning}", flush=True)
    Path(result).write_text(json.dumps(measured))


if __name__ == "__main__":
    main()
