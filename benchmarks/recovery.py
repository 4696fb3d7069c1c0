"""From a fault to the next step under `holdfast run`: python recovery.py SIZE REPETITIONS FOLDER RESULT.json

A training script is killed, or made to hang while it holds the interpreter's lock. What every start takes,
importing and building the model, is subtracted.
"""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import IO

from measure import settle

from holdfast.drill.faults.inside import Hang

SCRIPT = Path(__file__).parent / "relaunch_trainee.py"
RULE = "memory every 1 step, disk every 100 steps"
STRUCK_STEP = 7
DEADLINE_SECONDS = 5.0
FLAGS = [
    "--drillable",
    "--hang-at-least",
    str(DEADLINE_SECONDS),
    "--slow-at-least",
    "60",
    "--grace-seconds",
    "1",
]
SIGNALS = {"kill": int(signal.SIGKILL), "hang": Hang.inside_signal}


def recovered(size: str, place: Path, number: int) -> dict[str, float]:
    """Strike one training with a signal, and follow it to its first new step."""
    settle()
    command = [sys.executable, "-m", "holdfast", "run", *FLAGS, "--", sys.executable, "-W", "ignore"]
    with subprocess.Popen(
        [*command, str(SCRIPT), size, str(place / "repository"), RULE],
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        env=os.environ | {"HOLDFAST_MEMORY_SECONDS": "5"},
    ) as run:
        assert run.stdout is not None
        try:
            first, second, ended = _followed(run.stdout, number)
        finally:
            run.terminate()
    own = second["built"] - second["begun"]
    return {
        "found": ended.get("hang", first["struck"]) - first["struck"],
        "ended": ended["ended"] - ended.get("hang", first["struck"]),
        "to_step": second["step"] - ended["ended"] - own,
        "own": own,
    }


def _followed(said: IO[str], number: int) -> tuple[dict[str, float], dict[str, float], dict[str, float]]:
    """What two launches said of themselves, and when the supervisor said what of the first."""
    launches, ended = [dict[str, float]()], dict[str, float]()
    for what, seconds in _told(said, ended):
        if what == "begun" and "begun" in launches[-1]:
            launches.append({})
        if not what.isdecimal():
            launches[-1][what] = seconds
        elif len(launches) == 2:
            return launches[0], launches[1] | {"step": seconds}, ended
        elif int(what) == STRUCK_STEP - 1:
            launches[0]["before"] = seconds
        elif int(what) == STRUCK_STEP:
            time.sleep((seconds - launches[0]["before"]) / 2)  # in the midst of the next
            launches[0]["struck"] = time.monotonic()
            os.kill(int(launches[0]["pid"]), number)
    raise ChildProcessError("it ended before its first new step")


def _told(said: IO[str], ended: dict[str, float]) -> Iterator[tuple[str, float]]:
    """The lines of the script; when those of the supervisor came is put into ``ended``."""
    for line in said:
        if line.startswith("holdfast run: hang: "):
            ended["hang"] = time.monotonic()
        elif line.startswith("holdfast run: ") and line.rstrip().endswith("starting again."):
            ended["ended"] = time.monotonic()
        words = line.split()
        if len(words) == 2 and words[1].replace(".", "", 1).isdecimal():
            yield words[0], float(words[1])


def main() -> None:
    size, repetitions, folder, result = sys.argv[1:5]
    found: dict[str, list[dict[str, float]]] = {name: [] for name in SIGNALS}
    for turn in range(int(repetitions)):
        for name, number in SIGNALS.items():
            place = Path(folder) / "recovery"
            try:
                one = recovered(size, place, number)
            finally:
                shutil.rmtree(place, ignore_errors=True)
            found[name].append(one)
            print(f"  {turn + 1}/{repetitions}  {name}: {one['to_step']:.2f} s to a new step", flush=True)
    Path(result).write_text(json.dumps({"recoveries": found, "deadline_seconds": DEADLINE_SECONDS}))


if __name__ == "__main__":
    main()
