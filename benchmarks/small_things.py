"""Import time, and thousands of checkpoints: python small_things.py COUNT FOLDER RESULT.json"""

from __future__ import annotations

import json
import os
import shutil
import statistics
import subprocess
import sys
from pathlib import Path

from measure import forget_everything, seconds

import holdfast

REPEATS = 9
_IMPORT = "import time; t = time.perf_counter(); import holdfast; print(time.perf_counter() - t)"
_CHECKPOINTER = (
    "import time; t = time.perf_counter(); from holdfast import Checkpointer; print(time.perf_counter() - t)"
)


def import_seconds(code: str) -> float:
    times = []
    for _ in range(REPEATS):
        done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
        times.append(float(done.stdout))
    return statistics.median(times)


def fill(repository: Path, count: int) -> None:
    """Save ``count`` tiny checkpoints; durability is no matter here, so nothing waits for the disk."""
    fsync, os.fsync = os.fsync, lambda descriptor: None
    try:
        for step in range(1, count + 1):
            holdfast.save(repository, {"step": step}, step=step, metrics={"loss": 1 / step})
    finally:
        os.fsync = fsync


def listing(repository: Path) -> dict[str, float]:
    """Seconds of each look at the repository, each in a new process and with cold caches."""
    place = repr(str(repository))
    looks = {
        "open": f"holdfast.open({place})",
        "newest_recovery_point": f"holdfast.open({place})['main'].latest",
        "list": f"[(c.step, c.metrics) for c in holdfast.open({place})['main']]",
        "load_newest": f"holdfast.load({place}, into={{'step': 0}})",
    }
    found = {name: _look(code) for name, code in looks.items()}
    forget_everything()
    main = "from holdfast.cli.app import main; main()"
    command = [sys.executable, "-c", main, "ls", "main", "--json", "--repository", str(repository)]
    found["whole_ls_command"] = seconds(
        lambda: subprocess.run(command, stdout=subprocess.DEVNULL, check=True)
    )
    return found


def _look(code: str) -> float:
    ready = "import time, holdfast; holdfast.open, holdfast.load"  # imported before the clock starts
    timed = f"{ready}; t = time.perf_counter(); {code}; print(time.perf_counter() - t)"
    times = []
    for _ in range(3):
        forget_everything()
        done = subprocess.run([sys.executable, "-c", timed], capture_output=True, text=True, check=True)
        times.append(float(done.stdout.split()[-1]))
    return statistics.median(times)


def main() -> None:
    count, folder, result = int(sys.argv[1]), Path(sys.argv[2]), Path(sys.argv[3])
    repository = folder / "many"
    try:
        found = {
            "import_seconds": import_seconds(_IMPORT),
            "import_checkpointer_seconds": import_seconds(_CHECKPOINTER),
            "checkpoints": count,
            "filling_seconds": seconds(lambda: fill(repository, count)),
            "looks": listing(repository),
        }
    finally:
        shutil.rmtree(repository, ignore_errors=True)
    result.write_text(json.dumps(found))


if __name__ == "__main__":
    main()
