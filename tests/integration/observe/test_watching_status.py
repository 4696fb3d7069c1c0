"""`holdfast status --watch` on a real terminal, beside a real training."""

from __future__ import annotations

import json
import os
import pty
import re
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest
from tests.integration.supervisor.supervised import PATIENCE_SECONDS, Supervised

from holdfast.cli import app

LINE = re.compile(r"digits.*?(\d+) .*1 .*(▁+).*step 20, .*in \d+ steps? .*\d\.\d\d s")


def watched(place: Path, wanted: re.Pattern[str]) -> str:
    """What it shows until that is there; then Ctrl-C ends it."""
    here, there = pty.openpty()
    command = [sys.executable, "-m", "holdfast", "status", "-R", str(place), "--watch", "--interval", "0.2"]
    environment = os.environ | {"COLUMNS": "200", "LINES": "30", "TERM": "xterm", "NO_COLOR": "1"}
    process = subprocess.Popen(command, stdin=there, stdout=there, stderr=there, env=environment)
    os.close(there)
    shown, deadline = "", time.monotonic() + PATIENCE_SECONDS
    while wanted.search(shown) is None:
        assert time.monotonic() < deadline, shown
        shown += os.read(here, 65536).decode(errors="replace")
    process.send_signal(signal.SIGINT)
    assert process.wait(PATIENCE_SECONDS) == 0
    os.close(here)
    return shown


def test_it_shows_step_loss_and_what_comes_next(supervise: Callable[..., Supervised]) -> None:
    run = supervise("hang@26", TRAINEE_STEP_SECONDS="0.05")
    run.until("trains")
    shown = watched(run.place, LINE)
    assert "Ctrl-C ends this view" in shown
    assert run.process.poll() is None


def test_programs_learn_the_same(
    supervise: Callable[..., Supervised], capsys: pytest.CaptureFixture[str]
) -> None:
    run = supervise("hang@26")
    deadline, pulse = time.monotonic() + PATIENCE_SECONDS, None
    while pulse is None or pulse["step"] < 25:
        assert time.monotonic() < deadline, run.said
        if app.run(["status", "-R", str(run.place), "--json"]) == 0:
            told = json.loads(capsys.readouterr().out)["runs"]
            pulse = told[0]["pulse"] if told else None
    assert (pulse["loss"], told[0]["next_step"]) == (1.0, 30)


def test_it_is_for_people(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert app.run(["init", str(tmp_path / "r")]) == 0
    assert app.run(["status", "-R", str(tmp_path / "r"), "--watch", "--json"]) == 2
    assert "--watch is for people" in capsys.readouterr().err
