"""SIGKILL at every system call of a save, of a save with retention, of a walk-back, and more."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

import tracing

TESTS = Path(__file__).parents[1]
pytestmark = pytest.mark.skipif(not tracing.SUPPORTED, reason="ptrace is driven on x86-64 Linux only")

# Scenario, features, how many parts it is cut into, which of them run here (all in `make soak`), and
# how many points each must have at least.
EVERY = [("save", "all", 1, 0, 120)]
SOME = [
    ("save-prune", "all", 12, 2, 65),
    ("walk-back", "all", 8, 3, 60),
    ("save-threads", "all", 6, 0, 40),
    ("attempt", "all", 4, 0, 50),
    ("tag", "all", 4, 0, 40),
    ("repair", "all", 4, 1, 60),
    ("create", "all", 4, 0, 50),
    ("fork", "all", 8, 1, 45),
    ("sync", "all", 32, 5, 35),
    *(("sync", features, 80, 11, 12) for features in ("named", "no-rename", "whole-sync", "no-locks")),
    *(("fork", features, 12, 5, 25) for features in ("named", "no-rename", "no-locks")),
    ("thin", "all", 24, 5, 40),
    ("key", "all", 4, 1, 60),
    ("key", "named", 20, 3, 12),
    ("sealed-create", "all", 8, 3, 30),
    ("sealed-save-prune", "all", 20, 7, 30),
    ("sealed-walk-back", "all", 12, 5, 20),
    ("sealed-compact", "all", 240, 17, 5),
    ("sealed-sync", "all", 60, 7, 15),
    *(("save", features, 3, 1, 40) for features in ("no-direct", "named", "no-links", "no-rename")),
    ("compact", "all", 160, 28, 15),
    *(("compact", features, 240, 11, 10) for features in ("named", "no-rename", "whole-sync", "no-locks")),
    *(("save", features, 3, 2, 40) for features in ("whole-sync", "no-locks")),
    *(("save-prune", features, 25, 7, 30) for features in ("named", "no-rename", "whole-sync", "no-locks")),
]


ALSO = {(s, f) for s in ("sync", "compact", "save-prune", "fork") for f in ("no-rename", "whole-sync")}
"""What is left to `make test-all`: these meet the same operations as the others of their kind."""


def fast_folder(tmp_path: Path) -> Path:
    """Death of a process loses nothing that the kernel has, so memory is as good as a disk."""
    memory = Path("/dev/shm")
    return memory if os.access(memory, os.W_OK) else tmp_path


def run_program(name: str, tmp_path: Path, *arguments: str) -> dict[str, int]:
    program = [sys.executable, str(TESTS / name), str(fast_folder(tmp_path)), *arguments]
    done = subprocess.run(program, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    result: dict[str, int] = json.loads(done.stdout)
    return result


def test_enough_points_are_tried() -> None:
    assert sum(least for *_, least in EVERY + SOME) >= 1000


@pytest.mark.parametrize(
    ("scenario", "features", "parts", "part", "least"),
    [pytest.param(*c, marks=[pytest.mark.also] if c[:2] in ALSO else []) for c in EVERY + SOME],
)
def test_a_kill_at_any_system_call_loses_nothing(
    tmp_path: Path, scenario: str, features: str, parts: int, part: int, least: int
) -> None:
    result = run_program("crash_sweep.py", tmp_path, scenario, features, str(part), str(parts))
    assert result["tried"] >= least


# Scenario, features, the calls that fail, every how many of them does, and how many must at least.
FAILING = [
    ("save", "all", "fsync,linkat,pwrite64,mkdirat,flock", 1, 60),
    ("save", "all", "openat,newfstatat", 2, 60),
    ("save", "named", "renameat,linkat,unlinkat,fsync", 1, 50),
    ("save", "no-links", "renameat,renameat2", 1, 10),
    ("save", "no-rename", "renameat", 1, 10),
    ("save", "whole-sync", "syncfs,linkat", 1, 15),
    ("save-threads", "all", "fsync,linkat", 1, 60),  # about 92: not every call counted once comes again
    ("save-prune", "all", "unlinkat,getdents64", 2, 30),
    ("save-prune", "all", "fsync,linkat,mkdirat", 2, 50),
    ("tag", "all", "renameat,linkat,fsync,unlinkat", 1, 40),
    ("key", "all", "fsync,linkat,unlinkat", 2, 10),
    ("sealed-create", "all", "fsync,linkat", 2, 10),
    ("walk-back", "all", "fsync,linkat,preadv,pread64", 2, 20),
    ("create", "all", "fsync,linkat,mkdirat", 1, 60),
    ("fork", "all", "fsync,linkat,mkdirat", 2, 30),
    ("sync", "all", "linkat", 2, 5),
    ("compact", "all", "fsync,linkat,unlinkat", 12, 3),
]


@pytest.mark.parametrize(("scenario", "features", "calls", "parts", "least"), FAILING)
def test_a_failing_system_call_is_an_error_and_nothing_more(
    tmp_path: Path, scenario: str, features: str, calls: str, parts: int, least: int
) -> None:
    result = run_program("crash_failing.py", tmp_path, scenario, features, calls, str(parts))
    assert result["tried"] >= least
    assert result["failed"] >= result["tried"] / 3


@pytest.mark.parametrize(
    ("who", "training", "parts", "part", "least"),
    [
        ("trainer", "save", 16, 1, 10),
        ("agent", "save", 120, 5, 4),
        ("trainer", "hold", 10, 2, 12),
        ("agent", "hold", 120, 7, 4),
    ],
)
def test_trainer_or_agent_killed_at_any_system_call_of_a_background_save(
    tmp_path: Path, who: str, training: str, parts: int, part: int, least: int
) -> None:
    result = run_program("crash_background.py", tmp_path, who, training, str(part), str(parts))
    assert result["tried"] >= least
