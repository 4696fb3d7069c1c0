"""From a kill to the next step: python relaunch.py SIZE REPETITIONS FOLDER RESULT.json

A training script that saves in the background is killed and started again: once it restores from
memory, once from the disk, and once it held a snapshot in memory at each step. What every start
takes, importing and building the model, is subtracted.
"""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from itertools import pairwise
from pathlib import Path
from statistics import median
from typing import Any, NamedTuple

from limit import Limit
from measure import settle
from sizes import SHAPES
from training_model import Trainer

SCRIPT = Path(__file__).parent / "relaunch_trainee.py"
PATIENCE_SECONDS = 300.0
LAST = {"HOLDFAST_MEMORY_SECONDS": "0"}
"""Of the trainer that nobody follows: its agent does not stay."""


class Kind(NamedTuple):
    """A kill and what follows it.

    Attributes
    ----------
    rule : str
        When the trainer saves, in the background.
    killed_step : int
        After which it is killed. Of saves every second step, one is staged then, and just being made durable.
    environment : dict of str to str
        Of the trainer that is killed.
    """

    rule: str
    killed_step: int
    environment: dict[str, str]


KINDS = {
    "memory": Kind("every 2 steps", 7, {}),
    "disk": Kind("every 2 steps", 7, {"HOLDFAST_MEMORY_SECONDS": "0"}),
    "memory every step": Kind("memory every 1 step, disk every 100 steps", 7, {}),
}


def relaunch(size: str, folder: Path, kind: Kind) -> dict[str, Any]:
    settle()
    killed = _launch(size, folder, kind, until_step=kind.killed_step)
    again = _launch(size, folder, kind, until_step=None)
    own = again["built"] - again["begun"]
    first = min(again["steps"])
    return {
        "kill_to_step": again["steps"][first] - killed["killed"] - own,
        "kill_to_entered": again["entered"] - killed["killed"] - own,
        "process_start": again["begun"] - killed["killed"],
        "entered": again["entered"] - again["built"],
        "restore": again["read"],
        "place": "memory" if "place-memory" in again else "disk",
        "step": again["steps"][first] - again["entered"],
        "usual_step": _usual_step(killed["steps"]),
        "own": own,
        "killed_after": kind.killed_step,
        "first_step": first,
    }


def _usual_step(steps: dict[int, float]) -> float:
    ends = [steps[number] for number in sorted(steps)]
    return median(after - before for before, after in pairwise(ends))


def _launch(size: str, folder: Path, kind: Kind, *, until_step: int | None) -> dict[str, Any]:
    """Start the script, follow it to a step, or to its first one, and kill it."""
    seen: dict[str, Any] = {"steps": {}}
    command = [sys.executable, "-W", "ignore", str(SCRIPT), size, str(folder / "repository"), kind.rule]
    environment = os.environ | (kind.environment if until_step is not None else LAST)
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True, env=environment) as trainee:
        try:
            _follow(trainee, seen, until_step)
        finally:
            seen["killed"] = time.monotonic()
            trainee.send_signal(signal.SIGKILL)
    return seen


def _follow(trainee: subprocess.Popen[str], seen: dict[str, Any], until_step: int | None) -> None:
    assert trainee.stdout is not None
    for line in trainee.stdout:
        what, seconds = line.split()
        if not what.isdecimal():
            seen[what] = float(seconds)
            continue
        seen["steps"][int(what)] = float(seconds)
        if until_step is None or int(what) >= until_step:
            return
    raise ChildProcessError(f"the training script ended by itself ({trainee.wait(PATIENCE_SECONDS)})")


def _state_bytes(size: str) -> int:
    trainer = Trainer(SHAPES[size])
    trainer.learn()
    trainer.step()
    return sum(array.nbytes for array in trainer.arrays().values())


def main() -> None:
    size, repetitions, folder, result = sys.argv[1:5]
    limit = Limit(Path(folder), _state_bytes(size))
    found: dict[str, list[dict[str, Any]]] = {name: [] for name in KINDS}
    for number in range(int(repetitions)):
        best = limit.measure()
        for name, kind in KINDS.items():
            place = Path(folder) / "relaunch"
            try:
                one = relaunch(size, place, kind)
            finally:
                shutil.rmtree(place, ignore_errors=True)
            found[name].append(one | best)
            told = f"{one['kill_to_step']:.2f} s to a new step, from {one['place']}"
            print(f"  {number + 1}/{repetitions}  {name}: {told}", flush=True)
    Path(result).write_text(json.dumps({"relaunches": found}))


if __name__ == "__main__":
    main()
