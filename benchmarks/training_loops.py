"""Training in a loop of somebody else, who saves by himself: when each step ended, and what saving took."""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Mapping
from contextlib import contextmanager
from pathlib import Path
from threading import Condition
from typing import Any

from measure import make_durable
from sizes import Shape
from training_model import Trainer
from training_steps import Part, Plan
from training_way import HoldfastBackground, Way

PATIENCE_SECONDS = 120.0
OURS = {"holdfast, background": HoldfastBackground}
"""In the same loop, called at each step's end."""


class Record:
    """Plans that follow one another, and what became of them.

    The loop says when it saves and when a step ends, and asks whether to save; whoever writes says
    when it is durable, in whatever thread. Between two plans the saves under way are waited for.
    ``way`` saves at each step's end, for those who are no part of the loop.
    """

    def __init__(self, plans: Mapping[str, Plan], way: Way) -> None:
        self._way = way
        self.parts: dict[str, Part] = {kind: _nothing(plan) for kind, plan in plans.items()}
        self.steps = sum(plan.steps for plan in plans.values())
        self._plans = deque(plans.items())
        self._begun: deque[float] = deque()
        self._written = Condition()
        self._inside = 0.0

    @property
    def due(self) -> bool:
        """Whether the step that is about to end saves."""
        return bool(self._plans) and len(self._part["steps"]) in self._plans[0][1].saves

    def begin(self) -> None:
        """The first step begins."""
        self._before = time.perf_counter()

    @contextmanager
    def saving(self) -> Any:
        """Around the call that saves."""
        started = time.perf_counter()
        with self._written:
            self._begun.append(started)
        yield
        self._inside += time.perf_counter() - started

    def make_durable(self, path: Path) -> None:
        """The oldest save that is under way has written this."""
        make_durable(path)
        with self._written:
            self._part["durable"].append(time.perf_counter() - self._begun.popleft())
            self._written.notify_all()

    def end_step(self) -> None:
        """Everything that the step makes the loop do is done."""
        started = time.perf_counter()
        self._way.after_step(due=self.due)
        now = time.perf_counter()
        self._inside += now - started
        part = self._part
        part["steps"].append(now - self._before)
        part["inside"].append(self._inside)
        self._before, self._inside = now, 0.0
        if len(part["steps"]) == self._plans[0][1].steps:
            self._next_plan()

    def _next_plan(self) -> None:
        with self._written:
            if not self._written.wait_for(lambda: not self._begun, PATIENCE_SECONDS):
                raise TimeoutError("a save does not become durable")
        self._way.finish()
        self._part["durable"] += self._way.durable_seconds
        self._way.durable_seconds.clear()
        self._plans.popleft()
        self._before = time.perf_counter()

    @property
    def _part(self) -> Part:
        return self.parts[self._plans[0][0]]


def _nothing(plan: Plan) -> Part:
    return {"steps": [], "inside": [], "saves": sorted(plan.saves), "durable": []}


class Looped:
    """The model of PyTorch, its optimizer and its data, in a loop that a subclass runs."""

    ways: tuple[str, ...]

    def __init__(self, shape: Shape) -> None:
        self.shape = shape
        self.trainer = Trainer(shape)
        self.trainer.learn()
        self.trainer.step()
        arrays = self.trainer.arrays()
        self.state_bytes = sum(array.nbytes for array in arrays.values())
        self.tensors = len(arrays)

    def turn(self, name: str, folder: Path, plans: Mapping[str, Plan]) -> dict[str, Part]:
        with OURS.get(name, Way)(self.trainer, folder) as way:
            record = Record(plans, way)
            self.run(name, folder, record)
        return record.parts

    def run(self, name: str, folder: Path, record: Record) -> None:
        """Train as many steps as the record has, and save when it says so."""
        raise NotImplementedError
