"""Training while it is saved, in one process.

    python training.py KIND SIZE ROTATIONS LONG FOLDER RESULT.json [WAY ...]

KIND names what trains: ``training_KIND.py``. Every rotation measures the limit and then gives each
way of saving its turn, in an order that rotates. A turn is some steps with a save every ten, after
two saves that are not counted: the first ones take memory, start processes and prove what may be
copied behind the next step. Where LONG is 1, or the size is small, the last turn of each goes on
with one save in a hundred steps. Only the named ways are measured, if some are; "no saving" must be one.
"""

from __future__ import annotations

import importlib
import json
import os
import shutil
import sys
import traceback
from collections.abc import Collection
from pathlib import Path
from typing import Any

from limit import Limit
from measure import settle
from sizes import SHAPES, Shape
from training_figures import EVERY, RARELY
from training_steps import Part, Plan, Subject

WARM = Plan(6, frozenset({0, 3}))
FIRST_SAVE = 3
"""Step of a turn that saves first: some before it and some after the last one do not."""


def plan(steps: int, every: int) -> Plan:
    return Plan(steps, frozenset(range(FIRST_SAVE, steps, every)))


class Training:
    """The turns of one size, and what they gave."""

    def __init__(
        self,
        subject: Subject,
        shape: Shape,
        folder: Path,
        rotations: int,
        ways: Collection[str],
        *,
        long: bool,
    ) -> None:
        self._subject = subject
        self._shape = shape
        self._folder = folder
        self._rotations = rotations or shape.rotations
        self._long = long or shape.long_turn
        self._turns: dict[str, list[dict[str, Part]]] = {
            name: [] for name in subject.ways if not ways or name in ways
        }
        self._failed: dict[str, str] = {}

    def measure(self) -> dict[str, Any]:
        limit = Limit(self._folder, self._subject.state_bytes)
        limits = []
        for rotation in range(self._rotations):
            limits.append(limit.measure())
            names = list(self._turns)
            turn = rotation * 3 % len(names)
            for name in names[turn:] + names[:turn]:
                if name not in self._failed:
                    self._attempt(name, rotation)
        return {
            "state_bytes": self._subject.state_bytes,
            "tensors": self._subject.tensors,
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
            turn = self._subject.turn(name, folder, self._plans(last=rotation == self._rotations - 1))
        except Exception as error:
            self._failed[name] = f"{type(error).__name__}: {error}"
            print(f"  {name} FAILED: {self._failed[name]}", flush=True)
            return
        finally:
            shutil.rmtree(folder, ignore_errors=True)
        self._turns[name].append(turn)
        taken = sum(turn["often"]["steps"]) / len(turn["often"]["steps"])
        print(f"  {rotation + 1}/{self._rotations}  {name}: {taken:.3f} s per step", flush=True)

    def _plans(self, *, last: bool) -> dict[str, Plan]:
        plans = {"first": WARM, "often": plan(self._shape.segment_steps, EVERY)}
        return plans | {"rarely": plan(RARELY, RARELY)} if last and self._long else plans


def _divert_errors(log: Path) -> None:
    """Ways and the processes they start tell of each save on standard error."""
    with log.open("w") as opened:
        os.dup2(opened.fileno(), 2)


def _warnings(log: Path) -> list[str]:
    return [line for line in log.read_text().splitlines() if line.startswith("holdfast: WARNING")]


def main() -> None:
    kind, size, rotations, long, folder, result, *ways = sys.argv[1:]
    log = Path(folder) / "errors.log"
    _divert_errors(log)
    shape = SHAPES[size]
    try:
        subject = importlib.import_module(f"training_{kind}").subject(shape)
        training = Training(subject, shape, Path(folder), int(rotations), ways, long=long == "1")
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
