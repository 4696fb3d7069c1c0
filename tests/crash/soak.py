"""`make soak`: every kill point of every scenario on every kind of file system, both at entry and exit.

``PYTHONPATH=tests python -m crash.soak [SECONDS]`` goes on, in random order, for so long.
"""

from __future__ import annotations

import random
import sys
import tempfile
import time
from pathlib import Path

from crash_failing import CODES
from crash_failing import sweep as fail_each
from crash_scenarios import FEATURES, SCENARIOS, Stage
from crash_sweep import kill, points

SECONDS = 1800.0


def main() -> None:
    until = time.monotonic() + (float(sys.argv[1]) if len(sys.argv) > 1 else SECONDS)
    plan = [(s, f, at_exit) for s in SCENARIOS for f in FEATURES for at_exit in (False, True)]
    random.shuffle(plan)
    tried = 0
    for scenario, features, at_exit in plan:
        with tempfile.TemporaryDirectory() as folder:  # on a real disk
            stage = Stage(SCENARIOS[scenario], Path(folder), FEATURES[features])
            if at_exit:
                tried += fail_each(stage, list(CODES))["tried"]
            tried += _sweep(stage, at_exit, until)
        print(f"{tried:6} points so far; done: {scenario} on {features}, at_exit={at_exit}", flush=True)
        if time.monotonic() > until:
            break


def _sweep(stage: Stage, at_exit: bool, until: float) -> int:
    every = list(points(stage, 0, 1))
    random.shuffle(every)
    for tried, point in enumerate(every):
        if time.monotonic() > until:
            return tried
        trace = kill(stage, point, at_exit=at_exit)
        try:
            stage.check()
        except Exception as error:
            error.add_note(f"after a kill at system call {point}: {trace}")
            raise
    return len(every)


if __name__ == "__main__":
    main()
