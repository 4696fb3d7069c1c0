"""A true hang is found in time; what only takes long is left alone."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from tests import killing
from tests.integration.supervisor.supervised import Supervised

Supervise = Callable[..., Supervised]
LEAST_SECONDS = 1.0
STRICT = ("--hang-at-least", str(LEAST_SECONDS), "--monitor-interval", "0.05", "--grace-seconds", "0.5")


def test_a_hang_is_found_within_three_deadlines_with_its_stacks(
    supervise: Supervise, whole: dict[str, Any]
) -> None:
    run = supervise("hang@25", flags=STRICT)
    assert run.wait() == 0
    hung, finished = run.report["launches"]
    assert (hung["cause"], finished["cause"]) == ("hang", "finished")
    silent = float(hung["detail"].partition("nothing moved for ")[2].partition(" s")[0])
    assert silent <= 3 * LEAST_SECONDS
    assert "in hang" in hung["stacks"]
    assert "in hang" in run.said
    assert killing.left_behind(run.place, "digits") == whole


def test_one_that_hears_no_sigterm_is_killed(supervise: Supervise, whole: dict[str, Any]) -> None:
    run = supervise("deaf@25", flags=STRICT)
    assert run.wait() == 0
    assert [launch["exit_code"] for launch in run.report["launches"]] == [-9, 0]
    assert killing.left_behind(run.place, "digits") == whole


def test_a_wait_that_is_a_loop_is_a_hang_too(supervise: Supervise) -> None:
    run = supervise("spin@25", flags=STRICT)
    assert run.wait() == 0
    assert run.causes == ["hang", "finished"]


@pytest.mark.parametrize("fault", ["slow@1", "evaluate@20", "slowsave@20"])
def test_what_takes_long_is_no_hang(supervise: Supervise, whole: dict[str, Any], fault: str) -> None:
    """The first step, an evaluation, a save: each several times as long as a step may take."""
    run = supervise(fault, flags=STRICT, TRAINEE_SLOW_SECONDS=str(4 * LEAST_SECONDS))
    assert run.wait() == 0
    assert run.causes == ["finished"]
    assert killing.left_behind(run.place, "digits")["tensors"] == whole["tensors"]


def test_but_not_for_ever(supervise: Supervise) -> None:
    run = supervise("evaluate@20", flags=(*STRICT, "--slow-at-least", "1"), TRAINEE_SLOW_SECONDS="60")
    assert run.wait() == 0
    assert run.causes == ["hang", "finished"]


def test_steps_that_are_slow_are_waited_for_longer(supervise: Supervise) -> None:
    """A step of 0.3 s makes 3 s a deadline, although 0.5 s are allowed at least."""
    run = supervise(
        "slow@15", flags=("--hang-at-least", "0.5"), TRAINEE_SLOW_SECONDS="2.5", TRAINEE_WORK_SECONDS="0.3",
        TRAINEE_STEPS="17",
    )  # fmt: skip
    assert run.wait() == 0
    assert run.causes == ["finished"]


def test_a_stopped_training_is_no_hang(supervise: Supervise) -> None:
    run = supervise(flags=STRICT, TRAINEE_WORK_SECONDS="0.05")
    run.until("trains")
    trainer = run.trainer()
    os.kill(trainer, signal.SIGSTOP)
    time.sleep(5 * LEAST_SECONDS)
    assert run.process.poll() is None
    os.kill(trainer, signal.SIGCONT)
    assert run.wait() == 0
    assert run.causes == ["finished"]


def test_nor_is_one_whose_supervisor_was_stopped_with_it(supervise: Supervise) -> None:
    run = supervise(flags=STRICT, TRAINEE_WORK_SECONDS="0.05")
    run.until("trains")
    everybody = [run.trainer(), run.process.pid]
    for number in (signal.SIGSTOP, signal.SIGCONT):
        for pid in everybody:
            os.kill(pid, number)
        time.sleep(5 * LEAST_SECONDS if number == signal.SIGSTOP else 0)
    assert run.wait() == 0
    assert run.causes == ["finished"]


def test_nor_one_in_a_debugger(supervise: Supervise) -> None:
    """A frame of pdb that waits for a person, as a debugger over a socket does."""
    run = supervise("debug@25", flags=STRICT, TRAINEE_SLOW_SECONDS=str(5 * LEAST_SECONDS))
    assert run.wait() == 0
    assert run.causes == ["finished"]
    assert "a debugger holds the training" in run.said


def test_nothing_is_a_hang_if_asked(supervise: Supervise) -> None:
    run = supervise("slow@25", flags=(*STRICT, "--no-hang"), TRAINEE_SLOW_SECONDS=str(5 * LEAST_SECONDS))
    assert run.wait() == 0
    assert run.causes == ["finished"]


BEHIND = "import holdfast\nwith holdfast.Checkpointer('r', {'a': 1}) as c:\n for _ in c.steps(2): pass\n"


@pytest.mark.parametrize(
    ("before", "does", "code"), [("", "time.sleep(1)", 1), (BEHIND, "sum(range(10**6))", 0)]
)
def test_outside_of_a_checkpointer_work_is_no_hang(tmp_path: Path, before: str, does: str, code: int) -> None:
    script = f"{before}import time\nt = time.time()\nwhile time.time() < t + 8: {does}"
    flags = (*STRICT, "--slow-at-least", "1.5", "--on", "hang: stop")
    command = [sys.executable, "-m", "holdfast", "run", *flags, "--", sys.executable, "-c", script]
    assert subprocess.run(command, cwd=tmp_path, check=False, timeout=60).returncode == code
