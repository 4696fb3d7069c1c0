"""Whoever follows the log misses nothing of its own, and takes nothing of others."""

from __future__ import annotations

from pathlib import Path

import pytest

from holdfast.domain.event_lines import Writer
from holdfast.domain.events import Ended
from holdfast.node import eventlog
from holdfast.node.eventlog import EventLog
from holdfast.observe.following import Following


def write(place: Path, *steps: int, trace: str = "mine", run: str = "digits") -> None:
    log = EventLog(str(place), Writer("trainer", "here", 1, trace), print)
    for step in steps:
        log(Ended(run, step, "x"))


def steps(following: Following) -> list[int]:
    return [record["step"] for record in following.new()]


def test_from_the_present_end_on(tmp_path: Path) -> None:
    write(tmp_path / "log", 1, 2)
    following = Following(tmp_path / "log", "mine")
    assert steps(following) == []
    write(tmp_path / "log", 3)
    write(tmp_path / "log", 99, trace="another's")
    write(tmp_path / "log", 4)
    assert steps(following) == [3, 4]
    assert steps(following) == []
    following.close()


def test_a_log_that_comes_later(tmp_path: Path) -> None:
    following = Following(tmp_path / "log", "mine")
    assert steps(following) == []
    write(tmp_path / "log", 1)
    assert steps(following) == [1]
    following.close()


def test_a_log_that_is_put_aside(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    following = Following(tmp_path / "log", "mine")
    write(tmp_path / "log", 1)
    assert steps(following) == [1]
    monkeypatch.setattr(eventlog, "LIMIT_BYTES", 1)
    write(tmp_path / "log", 2)
    write(tmp_path / "log", 3)  # each fills a file
    monkeypatch.setattr(eventlog, "LIMIT_BYTES", 1 << 20)
    write(tmp_path / "log", 4)
    assert steps(following) == [2, 4]  # what was pushed out before anybody looked is gone
    following.close()


def test_a_folder(tmp_path: Path) -> None:
    following = Following(tmp_path, "mine")
    write(tmp_path, 1, run="a")
    write(tmp_path, 2, run="b/c")
    assert steps(following) == [1, 2]
    write(tmp_path, 3, run="a")
    assert steps(following) == [3]
    following.close()


def test_half_a_line_is_waited_for_and_rubbish_is_passed_over(tmp_path: Path) -> None:
    following = Following(tmp_path / "log", "mine")
    with (tmp_path / "log").open("wb", buffering=0) as file:
        file.write(b'\xff\n[]\n{"trace": "mine", "st')
        assert steps(following) == []
        file.write(b'ep": 5}\n')
        assert steps(following) == [5]
    following.close()
