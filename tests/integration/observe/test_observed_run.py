"""A real training that is killed: its log tells the story, its metrics count it, somebody is told."""

from __future__ import annotations

import json
import os
import re
import urllib.request
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from tests.integration.supervisor.supervised import Supervised
from tests.webhook import Webhook

from holdfast.cli import app

Supervise = Callable[..., Supervised]
KILLED = ("kill@25", "error@32")


def records(place: Path) -> list[Any]:
    return [json.loads(line) for line in place.read_text().splitlines()]


def scraped(run: Supervised) -> str:
    found = re.search(r"metrics are at (\S+)\.", run.said)
    assert found is not None
    with urllib.request.urlopen(found[1], timeout=30) as answer:
        assert answer.headers["Content-Type"].startswith("text/plain; version=0.0.4")
        return str(answer.read().decode())


def test_the_log_tells_the_whole_story(supervise: Supervise, tmp_path: Path) -> None:
    log = tmp_path / "log.jsonl"
    run = supervise(*KILLED, flags=("--on", "exception: restart 2"), HOLDFAST_LOG=str(log))
    assert run.wait() == 0
    told = records(log)
    assert len({record["trace"] for record in told}) == 1
    assert [record["time"] for record in told] == sorted(record["time"] for record in told)
    story = [record for record in told if record["event"] not in ("warned", "launched", "recovered")]
    names = [record["event"] for record in story]
    assert names == [
        *("launch_began", "started", "saved", "saved", "launch_ended"),
        *("launch_began", "restored", "saved", "ended", "launch_ended"),
        *("launch_began", "restored", "saved", "ended", "launch_ended"),
    ]
    assert [r["launch"] for r in told if r["event"] == "recovered"] == [2, 3]
    assert [r["cause"] for r in story if r["event"] == "launch_ended"] == ["crash", "exception", "finished"]
    assert [r["step"] for r in story if r["event"] == "restored"] == [20, 30]
    assert [r["lost_steps"] for r in story if r["event"] == "launch_ended"] == [None, 4, 1]
    by_trainer = [record for record in story if record["process"] == "trainer"]
    assert {record["run"] for record in by_trainer} == {"digits"}
    assert [record["attempt"][:6] for record in by_trainer] == [
        *("000001",) * 3,
        *("000002",) * 3,
        *("000003",) * 3,
    ]
    saves = [record for record in story if record["event"] == "saved"]
    assert all(min(r["seconds"], r["burden_seconds"], r["size_bytes"]) > 0 for r in saves)


def test_metrics_of_a_live_run_and_notifications(supervise: Supervise) -> None:
    with Webhook() as hook:
        flags = ("--metrics-port", "0", "--notify-url", hook.url, "--grace-seconds", "0")
        run = supervise("kill@25", "hang@35", flags=flags)
        run.until("resumes after step 20")
        while 'holdfast_step{run="digits"} 34' not in (text := scraped(run)):
            assert run.process.poll() is None, run.said
        os.kill(run.trainer(), 9)
        assert run.wait() == 0
    assert 'holdfast_restarts_total{run="digits",cause="crash"} 1' in text
    assert 'holdfast_launches_total{run="digits"} 2' in text
    assert 'holdfast_running{run="digits"} 1' in text
    assert 'holdfast_saves_total{run="digits",result="saved"} 3' in text
    assert 'holdfast_last_checkpoint_step{run="digits"} 30' in text
    assert 'holdfast_loss{run="digits"} 1' in text
    assert "holdfast_repository_free_bytes" in text
    assert [message["cause"] for message in hook.received] == ["crash", "crash", "finished"]
    assert hook.received[0]["text"] == "holdfast: launch 1 of digits ended at step 24: crash (SIGKILL)"


def test_the_agent_has_its_say(supervise: Supervise, tmp_path: Path) -> None:
    log = tmp_path / "logs"
    log.mkdir()
    run = supervise("kill@25", HOLDFAST_LOG=str(log), HOLDFAST_BACKGROUND="1", TRAINEE_STEP_SECONDS="0.02")
    assert run.wait() == 0
    told = records(log / "digits.jsonl")
    by_agent = [record for record in told if record["process"] == "agent"]
    assert [record["step"] for record in by_agent if record["event"] == "persisted"] == [10, 20, 30, 40]
    durable = {record["checkpoint"] for record in told if record["event"] == "saved"}
    assert durable <= {record["checkpoint"] for record in by_agent}
    (trace,) = {record["trace"] for record in told}
    assert {r["trace"] for r in records(log / "holdfast.jsonl")} == {trace}


def test_a_log_that_cannot_be_written_costs_nothing_else(supervise: Supervise, tmp_path: Path) -> None:
    run = supervise(HOLDFAST_LOG=str(tmp_path / "none" / "log"))
    assert run.wait() == 0
    assert run.said.count("events cannot be written") == 2  # by the supervisor, and by the trainer


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["--notify-url", "ftp://x"], "The address for notifications is none."),
        (["--notify-command", "'"], "The command for notifications cannot be read"),
        (["--metrics-port", "0", "--metrics-host", "192.0.2.1"], "Metrics cannot be served at 192.0.2.1:0"),
        (["--metrics-port", "70000"], "Invalid value for '--metrics-port'"),
    ],
)
def test_what_cannot_be_shown_is_refused_first(
    words: list[str], said: str, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(os, "environ", os.environ.copy())
    assert app.run(["run", *words, "--", "false"]) == 2
    assert said in " ".join(capsys.readouterr().err.split())


def test_metrics_need_a_file(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "environ", os.environ | {"HOLDFAST_LOG": "-"})
    assert app.run(["run", "--metrics-port", "0", "--", "false"]) == 2
    assert "HOLDFAST_LOG=- leaves no file" in capsys.readouterr().err
