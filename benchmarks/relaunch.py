"""From a kill to the next step: python relaunch.py SIZE REPETITIONS FOLDER RESULT.json

A training script that saves in the background is killed and started again. What every start takes,
importing and building the model, is subtracted.
"""

from __future__ import annotations

import json
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

from measure import settle
from relaunch_trainee import EVERY

SCRIPT = Path(__file__).parent / "relaunch_trainee.py"
KILLED_STEP = 3 * EVERY + 1
"""The step after a save: it is staged, and just being made durable."""
PATIENCE_SECONDS = 300.0


def relaunch(size: str, folder: Path) -> dict[str, Any]:
    settle()
    killed = _launch(size, folder, until_step=KILLED_STEP)
    again = _launch(size, folder, until_step=None)
    own = again["built"] - again["begun"]
    first = min(again["steps"])
    return {
        "kill_to_step": again["steps"][first] - killed["killed"] - own,
        "kill_to_restored": again["restored"] - killed["killed"] - own,
        "process_start": again["begun"] - killed["killed"],
        "restore": again["restored"] - again["built"],
        "step": again["steps"][first] - again["restored"],
        "own": own,
        "killed_after": KILLED_STEP,
        "first_step": first,
    }


def _launch(size: str, folder: Path, *, until_step: int | None) -> dict[str, Any]:
    """Start the script, follow it to a step, or to its first one, and kill it."""
    seen: dict[str, Any] = {"steps": {}}
    command = [sys.executable, "-W", "ignore", str(SCRIPT), size, str(folder / "repository")]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as trainee:
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
    raise SystemExit(f"the training script ended by itself ({trainee.wait(PATIENCE_SECONDS)})")


def main() -> None:
    size, repetitions, folder, result = sys.argv[1:5]
    found = []
    for number in range(int(repetitions)):
        place = Path(folder) / f"relaunch-{number}"
        try:
            found.append(relaunch(size, place))
        finally:
            shutil.rmtree(place, ignore_errors=True)
        print(f"  {number + 1}/{repetitions}  {found[-1]['kill_to_step']:.2f} s to a new step", flush=True)
    Path(result).write_text(json.dumps({"relaunches": found}))


if __name__ == "__main__":
    main()
