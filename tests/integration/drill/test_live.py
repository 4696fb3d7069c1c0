"""Faults in a run that trains now: what each cost is told, and it ends exact all the same."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from tests import killing
from tests.integration.supervisor.supervised import Supervised, undisturbed

LONG = {"TRAINEE_STEPS": "450", "HOLDFAST_BACKGROUND": "1"}
FAULTS = ["kill", "stop", "agent", "full-disk", "hang"]
Supervise = Callable[..., Supervised]


@pytest.fixture
def supervise(tmp_path: Path) -> Iterator[Supervise]:
    started: list[Supervised] = []

    def start(**options: Any) -> Supervised:
        started.append(Supervised(tmp_path, **options))
        return started[-1]

    yield start
    for supervised in started:
        supervised.end()


def drilled(place: Path, *words: str, exits: int) -> tuple[Any, str]:
    done = subprocess.run(
        [sys.executable, "-m", "holdfast", "drill", "--live", "digits", "-R", str(place), "--json", *words],
        env=os.environ | {"OMP_NUM_THREADS": "1"},
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        check=False,
        timeout=200,
    )
    assert done.returncode == exits, done.stderr + done.stdout
    return json.loads(done.stdout or "null"), done.stderr


@pytest.mark.timeout(240)
def test_a_live_run_comes_back_from_each_and_ends_exact(supervise: Supervise, tmp_path: Path) -> None:
    flags = ("--drillable", "--hang-at-least", "2", "--slow-at-least", "4", "--grace-seconds", "1")
    run = supervise(**LONG, TRAINEE_STEP_SECONDS="0.04", flags=flags)
    run.until("trains")
    found, _ = drilled(run.place, "--faults", ",".join(FAULTS), "--yes", exits=0)
    assert [one["fault"] for one in found["outcomes"]] == FAULTS
    assert all(one["recovery"]["seconds"] > 0 for one in found["outcomes"])
    lost = {one["fault"]: one["recovery"]["lost_steps"] for one in found["outcomes"]}
    assert lost["stop"] == lost["agent"] == lost["full-disk"] == 0
    assert run.wait() == 0
    assert run.causes == ["crash", "hang", "finished"]
    (tmp_path / "whole").mkdir()
    whole = undisturbed(tmp_path / "whole", **LONG, TRAINEE_STEP_SECONDS="0")
    assert killing.left_behind(run.place, "digits") == whole


def test_refusals(supervise: Supervise, tmp_path: Path) -> None:
    run = supervise(**LONG, TRAINEE_STEP_SECONDS="0.05")
    run.until("trains")
    for words, code, said in (
        (("--faults", "bit-rot"), 2, "it damages a checkpoint"),
        (("--faults", "machine", "--yes"), 2, "nobody here would start the supervisor again"),
        (("--yes", "--", "python", "train.py"), 2, "--live and a command do not go together"),
        (("--storm", "5", "--yes"), 2, "--live and --storm do not go together"),
        ((), 2, "Nobody is there to answer"),
        (("--faults", "hang", "--yes"), 1, "holdfast run --drillable"),
    ):
        found, told = drilled(run.place, *words, exits=code)
        assert said in told + json.dumps(found)
    run.process.terminate()
    assert run.wait() == 143
    assert run.causes == ["preempted"]
    assert "nothing trains it on this machine" in drilled(run.place, "--yes", exits=3)[1]
