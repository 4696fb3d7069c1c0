"""What is trained while it is saved: steps to take, and the seconds that they took."""

from __future__ import annotations

import time
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any, NamedTuple, Protocol

import numpy as np
from training_way import Learner, Way

Part = dict[str, Any]
"""Seconds of each step, and of the calls in it that save; which steps saved, and when it was durable."""


class Plan(NamedTuple):
    """Steps to take, and after which of them to save."""

    steps: int
    saves: frozenset[int]


class Subject(Protocol):
    """Something that trains, and the ways in which it can be saved.

    Attributes
    ----------
    ways : iterable of str
        The first one saves nothing.
    """

    state_bytes: int
    tensors: int
    ways: Iterable[str]

    def turn(self, name: str, folder: Path, plans: Mapping[str, Plan]) -> dict[str, Part]:
        """Train on, one plan after the other, and save in this way to the folder."""


class Driven:
    """Trained step by step, by us."""

    def __init__(self, trainer: Learner, ways: Mapping[str, type[Way]]) -> None:
        self._trainer = trainer
        self._ways = ways
        self.ways = tuple(ways)
        trainer.learn()
        trainer.step()
        arrays = trainer.arrays()
        self.state_bytes = sum(array.nbytes for array in arrays.values())
        self.tensors = len(arrays)

    def turn(self, name: str, folder: Path, plans: Mapping[str, Plan]) -> dict[str, Part]:
        with self._ways[name](self._trainer, folder) as way:
            parts = {kind: train(self._trainer, way, plan) for kind, plan in plans.items()}
            parts["first"]["whole"] = whole(self._trainer, way)
        return parts


def train(trainer: Learner, way: Way, plan: Plan) -> Part:
    """Take the steps, each from one safe point's end to the next one's."""
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


def whole(trainer: Learner, way: Way) -> bool | None:
    """Whether a checkpoint holds the state of the step that saved it, though training went on at once."""
    expected = {name: array.copy() for name, array in trainer.arrays().items()}
    way.after_step(due=True)
    for _ in range(2):
        trainer.learn()
        way.before_step()
        trainer.step()
        way.after_step(due=False)
    way.finish()
    found = way.saved()
    if found is None:
        return None
    return found.keys() == expected.keys() and all(
        np.array_equal(np.asarray(found[name]).ravel(), array.ravel()) for name, array in expected.items()
    )
