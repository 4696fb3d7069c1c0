"""A script that resumes exactly is found to, one that does not is caught, with what is likely the cause."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from tests.integration.training.launching import wait_until

from holdfast.drill import likely

SCRIPT = Path(__file__).with_name("provable.py")


def proved(folder: Path, *words: str, flags: tuple[str, ...] = (), exits: int) -> tuple[Any, str]:
    """The verdict and what was said."""
    prove = [sys.executable, "-m", "holdfast", "prove", "--json", "--seed", "3", *flags, "--"]
    done = subprocess.run(
        [*prove, sys.executable, str(SCRIPT), *words],
        cwd=folder,
        env=os.environ | {"OMP_NUM_THREADS": "1", "TMPDIR": str(folder)},
        capture_output=True,
        text=True,
        check=False,
        timeout=110,
    )
    assert done.returncode == exits, done.stderr
    return json.loads(done.stdout or "null"), done.stderr


@pytest.mark.parametrize("words", [("numpy",), ("numpy", "must")])  # resume="must": nothing is there yet
def test_exact_and_nothing_is_touched(tmp_path: Path, words: tuple[str, ...]) -> None:
    found, said = proved(tmp_path, *words, exits=0)
    assert found["exact"]
    assert found["steps"] >= 20
    assert len(found["kills"]) == 3
    assert said.count("SIGKILL") == 3
    assert list(tmp_path.iterdir()) == []  # neither the script's own place, nor anything temporary


@pytest.mark.paddle
@pytest.mark.parametrize("framework", ["torch", pytest.param("paddle", marks=pytest.mark.also)])
def test_exact_in_both_frameworks(tmp_path: Path, framework: str) -> None:
    found, said = proved(tmp_path, framework, flags=("--kills", "1"), exits=0)
    assert found["exact"]
    assert "training does not depend on it: numpy, python" in said


@pytest.mark.paddle
@pytest.mark.parametrize(
    ("framework", "flaw", "cause", "names"),
    [
        ("numpy", "own-generator", likely.DATA_OR_RNG, "metrics"),
        ("paddle", "forgotten-optimizer", likely.UPDATE, "tensors"),
    ],
)
def test_what_is_forgotten_is_found_at_the_first_step_after_a_kill(
    tmp_path: Path, framework: str, flaw: str, cause: str, names: str
) -> None:
    found, _ = proved(tmp_path, framework, flaw, flags=("--kills", "1"), exits=1)
    assert found["likely"] == cause
    difference = found["difference"]
    assert difference["step"] == difference["resumed"] + 1
    assert difference[names]


@pytest.mark.parametrize(
    ("flaw", "causes"),
    [
        ("unseeded", {likely.NOT_SEEDED}),
        ("clock", {likely.NOT_SEEDED}),
        ("loader", {likely.NOT_SEEDED, likely.NOT_DETERMINISTIC}),  # the first item may be the same by chance
        ("counter", {likely.VALUES}),
        ("forgotten-average", {likely.UPDATE, likely.LATER}),  # which acts on every fifth step
    ],
)
def test_other_flaws(tmp_path: Path, flaw: str, causes: set[str]) -> None:
    found, _ = proved(tmp_path, "numpy", flaw, exits=1)
    assert found["likely"] in causes


def test_a_time_in_the_state_is_left_out(tmp_path: Path) -> None:
    found, said = proved(tmp_path, "numpy", "time", exits=0)
    assert found["exact"]
    assert "training does not depend on it: seconds" in said


def test_a_script_that_cannot_be_started_twice(tmp_path: Path) -> None:
    found, _ = proved(tmp_path, "numpy", "fails-after-a-kill", exits=1)
    assert found["difference"] is None
    assert "it cannot be started twice" in found["failure"]


def test_without_a_loss_less_can_be_said(tmp_path: Path) -> None:
    found, _ = proved(tmp_path, "numpy", "no-loss", exits=0)
    assert found["exact"]


@pytest.mark.parametrize(
    ("words", "flags", "code", "said"),
    [
        (["numpy", "fails"], (), 1, "although nobody kills it; it said:\\nthere are no data"),
        (["numpy", "no-loop"], (), 3, "The script has saved nothing."),
        (["numpy", "--steps", "1"], (), 1, "The script was over before it could be killed."),
        (["numpy"], ("--folder", "."), 2, ". is there already."),
        (["numpy"], ("--kills", "0"), 2, "Invalid value for '--kills'"),
    ],
)
def test_refusals(tmp_path: Path, words: list[str], flags: tuple[str, ...], code: int, said: str) -> None:
    _, told = proved(tmp_path, *words, flags=flags, exits=code)
    assert said in told
    assert list(tmp_path.iterdir()) == []


def test_the_folder_can_be_looked_at_afterwards(tmp_path: Path) -> None:
    proved(tmp_path, "numpy", flags=("--folder", "proof"), exits=0)
    assert {p.name for p in (tmp_path / "proof").iterdir()} == {"whole", "whole.log", "killed", "killed.log"}


def test_ranks_are_killed_with_their_launcher(tmp_path: Path) -> None:
    """They are in sessions of their own, as torchrun's are."""
    command = [sys.executable, str(SCRIPT.with_name("launcher.py")), str(SCRIPT), "numpy"]
    done = subprocess.run(
        [sys.executable, "-m", "holdfast", "prove", "--kills", "2", "--seed", "3", "--", *command],
        cwd=tmp_path,
        env=os.environ | {"TMPDIR": str(tmp_path)},
        capture_output=True,
        text=True,
        check=False,
        timeout=110,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert "Exact: killed 2 times" in done.stdout
    assert "Undisturbed: 19 steps saved, up to step 20." in done.stderr


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGHUP])
def test_asked_to_end_it_leaves_nothing(tmp_path: Path, number: signal.Signals) -> None:
    command = [sys.executable, "-m", "holdfast", "prove", "--", sys.executable, str(SCRIPT), "numpy"]
    process = subprocess.Popen(
        [*command, "--steps", "2000"], cwd=tmp_path, env=os.environ | {"TMPDIR": str(tmp_path)}
    )
    assert wait_until(lambda: any(tmp_path.glob("*/whole/runs/proved/checkpoints/*")), 60)
    process.send_signal(number)
    assert process.wait(60) == 128 + number
    assert list(tmp_path.iterdir()) == []
