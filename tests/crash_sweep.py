"""Kill a process at each of its system calls, look at what it left, go on from there.

Run as a program by the tests, because the process that forks must be small and have one thread:
``python tests/crash_sweep.py FOLDER SCENARIO FEATURES PART PARTS``.
"""

from __future__ import annotations

import json
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

from crash_scenarios import FEATURES, SCENARIOS, Stage
from tracing import Trace, run_traced


def sweep(stage: Stage, part: int = 0, parts: int = 1, *, at_exit: bool = False) -> int:
    """Kill at every ``parts``-th call from ``part`` on; return how many points were tried."""
    tried = 0
    for point in points(stage, part, parts):
        trace = kill(stage, point, at_exit=at_exit)
        try:
            stage.check()
        except Exception as error:
            error.add_note(f"after a kill at system call {point}: {trace}")
            raise
        tried += 1
    return tried


def points(stage: Stage, part: int, parts: int) -> Iterator[int]:
    total = kill(stage, None).calls
    yield from range(1 + part, total + 1, parts)


def kill(stage: Stage, point: int | None, *, at_exit: bool = False) -> Trace:
    storage = stage.reset()
    trace = run_traced(lambda: stage.scenario.work(storage), kill_at=point, at_exit=at_exit)
    if not trace.killed and trace.status != 0:
        raise AssertionError(f"the scenario itself failed: {trace}")
    return trace


def main() -> None:
    folder, scenario, features, part, parts = sys.argv[1:]
    with tempfile.TemporaryDirectory(dir=folder) as inner:
        stage = Stage(SCENARIOS[scenario], Path(inner), FEATURES[features])
        print(json.dumps({"tried": sweep(stage, int(part), int(parts))}))


if __name__ == "__main__":
    main()
