"""Events become lines that say enough; the log is bounded, and never in anybody's way."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch

from holdfast.domain.event_lines import Writer, line
from holdfast.domain.events import (
    Ended,
    Event,
    Launched,
    Reported,
    Saved,
    SaveFailed,
    Started,
    Warned,
    unheard,
)
from holdfast.node import eventlog
from holdfast.node.eventlog import EventLog, event_log

WRITER = Writer("trainer", "here", 7, "ab12")


def told(event: Event, attempt: str | None = None) -> Any:
    return json.loads(line(event, WRITER, attempt, 5.0))


def lines(path: Path) -> list[Any]:
    return [json.loads(text) for text in path.read_text().splitlines()]


def log_to(place: Path, said: list[str] | None = None) -> EventLog:
    return EventLog(str(place), WRITER, (said if said is not None else []).append)


def test_a_line_says_when_what_who_and_how_long() -> None:
    record = told(Saved("digits", 30, "every 10 steps", 0.5, 100, 60, burden_seconds=0.1), "000001-ab")
    assert record == {
        "time": 5.0,
        "event": "saved",
        "level": "info",
        "run": "digits",
        "attempt": "000001-ab",
        "process": "trainer",
        "host": "here",
        "pid": 7,
        "trace": "ab12",
        "step": 30,
        "reason": "every 10 steps",
        "seconds": 0.5,
        "size_bytes": 100,
        "new_bytes": 60,
        "checkpoint": "",
        "metrics": {},
        "burden_seconds": 0.1,
        "message": "saved digits@30 (every 10 steps) in 0.50 s",
    }
    assert told(SaveFailed("digits", 3, "full", 1))["level"] == "warning"
    assert told(SaveFailed("digits", 3, "full", 1))["event"] == "save_failed"


def test_what_json_has_not_is_no_reason_to_fail() -> None:
    metrics = {"loss": float("nan"), "norm": torch.ones(3), "name": "x" * 5000, "deep": {"a": [1, None]}}
    record = told(Reported("digits", 1, metrics))
    assert record["metrics"] == {"loss": "nan", "norm": None, "name": "x" * 2000, "deep": {"a": [1, None]}}


def test_what_the_script_configured_stays_out_of_it() -> None:
    event = Launched("digits", "here", "id", "1-a", "1-a", 3, {"token": "secret"})
    assert "secret" not in line(event, WRITER, None, 0.0).decode()


def test_an_attempt_once_known_is_told_with_all_that_follows(tmp_path: Path) -> None:
    log = log_to(tmp_path / "log")
    for event in (Warned("digits", "x"), Started("digits", "here", "000002-cd"), Warned("digits", "y")):
        log(event)
    assert [record["attempt"] for record in lines(tmp_path / "log")] == [None, "000002-cd", "000002-cd"]


def test_a_folder_has_a_file_for_each_run(tmp_path: Path) -> None:
    log = log_to(tmp_path)
    log(Started("sweep/lr3", "here"))
    log(Started("", "here"))
    assert sorted(path.name for path in tmp_path.iterdir()) == ["holdfast.jsonl", "sweep.lr3.jsonl"]


def test_standard_error(capsys: pytest.CaptureFixture[str]) -> None:
    log_to(Path("-"))(Started("digits", "here"))
    assert json.loads(capsys.readouterr().err)["event"] == "started"


def test_it_is_bounded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(eventlog, "LIMIT_BYTES", 2000)
    log = log_to(tmp_path / "log")
    for step in range(100):
        log(Ended("digits", step, "finished"))
    kept = lines(tmp_path / "log.1") + lines(tmp_path / "log")
    assert sum(path.stat().st_size for path in tmp_path.iterdir()) < 5000
    assert [record["step"] for record in kept] == list(range(100))[-len(kept) :]


def test_a_fault_is_told_once_and_again_after_it_was_gone(tmp_path: Path) -> None:
    said: list[str] = []
    log = log_to(tmp_path / "folder" / "log", said)
    for step in range(3):
        log(Ended("digits", step, "x"))
    (tmp_path / "folder").mkdir()
    log(Ended("digits", 3, "x"))
    assert [record["step"] for record in lines(tmp_path / "folder" / "log")] == [3]
    assert len(said) == 1
    assert "No such file or directory" in said[0]


def test_a_pipe_that_nobody_reads_holds_nobody_up(tmp_path: Path) -> None:
    said: list[str] = []
    os.mkfifo(tmp_path / "log")
    log_to(tmp_path / "log", said)(Ended("digits", 1, "x"))
    assert len(said) == 1


def test_without_the_variable_nobody_listens() -> None:
    assert event_log({}, "trainer", print) is unheard
    assert event_log({"HOLDFAST_LOG": ""}, "trainer", print) is unheard


def test_a_script_that_goes_to_another_folder_still_has_its_log(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    log = event_log({"HOLDFAST_LOG": "log"}, "trainer", print)
    (tmp_path / "elsewhere").mkdir()
    monkeypatch.chdir(tmp_path / "elsewhere")
    log(Ended("digits", 1, "x"))
    assert [record["process"] for record in lines(tmp_path / "log")] == ["trainer"]


WRITES = """
import sys
from holdfast.domain.event_lines import Writer
from holdfast.domain.events import Warned
from holdfast.node import eventlog
eventlog.LIMIT_BYTES = 20_000
log = eventlog.EventLog(sys.argv[1], Writer("trainer", "here", int(sys.argv[2])), print)
for number in range(300):
    log(Warned("digits", f"{number} " + "x" * 50))
"""


def test_processes_that_write_together_tear_no_line(tmp_path: Path) -> None:
    command = [sys.executable, "-c", WRITES, str(tmp_path / "log")]
    writers = [subprocess.Popen([*command, str(number)]) for number in range(3)]
    assert [writer.wait(60) for writer in writers] == [0, 0, 0]
    assert lines(tmp_path / "log") + lines(tmp_path / "log.1")
