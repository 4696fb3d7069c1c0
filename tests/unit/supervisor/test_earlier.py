"""Where a launch may begin earlier."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

import holdfast
from holdfast.supervisor import supervising
from holdfast.supervisor.causes import Cause
from holdfast.supervisor.deciding import Launch
from holdfast.supervisor.earlier import recovery_steps, step_back
from holdfast.supervisor.rules import Rule
from holdfast.supervisor.supervising import Supervision, Supervisor
from holdfast.supervisor.watching import Audience
from holdfast.training.overrides import Overrides


def checkpoint(step: int, **other: Any) -> dict[str, Any]:
    return {"step": step, "kind": "full", "on_line": True, "rejected": False} | other


def test_only_what_a_run_may_resume_from_counts_once() -> None:
    found = [
        checkpoint(10),
        checkpoint(20, kind="thin"),
        checkpoint(30, on_line=False),
        checkpoint(40, rejected=True),
        checkpoint(50),
        checkpoint(50),
    ]
    assert recovery_steps(found) == [50, 10]


def test_as_far_back_as_there_is_something(tmp_path: Path) -> None:
    place = str(tmp_path / "r")
    with holdfast.Checkpointer(
        place, {"w": np.zeros(3)}, run="a/b", save="every 5 steps", keep="all"
    ) as ckpt:
        for _ in ckpt.steps(15):
            pass
    assert [step_back(place, "a/b", back) for back in (1, 2, 9)] == [10, 5, 5]


def test_what_was_saved_since_it_went_back_in_vain_does_not_count(tmp_path: Path) -> None:
    place = str(tmp_path / "r")
    resumes: tuple[tuple[str, int | str], ...] = (("every 5 steps", "auto"), ("every 1 step", 10))
    for save, resume in resumes:
        state = {"w": np.zeros(3)}
        with holdfast.Checkpointer(place, state, run="a", resume=resume, save=save, keep="all") as ckpt:
            for _ in ckpt.steps(15):
                pass
    assert [step_back(place, "a", 2, before) for before in (None, 10, 5)] == [13, 5, 5]


def test_each_launch_that_gets_no_further_begins_before_the_last_one(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    asked: list[tuple[int, int | None]] = []

    def earlier(location: str, run: str, back: int, before: int | None) -> int:
        asked.append((back, before))
        return 20 - 5 * len(asked)

    def launched(self: Supervisor, signals: object, overrides: Overrides) -> Launch:
        reached = (35, 35, 35, 45, 45, 45)[len(self.history)]
        return Launch(cause=Cause.NOT_FINITE, step=reached, resumed=overrides.resume, run="a", location="r")

    monkeypatch.setattr(supervising, "step_back", earlier)
    monkeypatch.setattr(Supervisor, "_launch", launched)
    rules = {Cause.NOT_FINITE: Rule(3, 0.0, 1)}
    monkeypatch.setattr(Supervisor, "_is_told_to_end", lambda self, signals, seconds: len(self.history) == 6)
    Supervisor(Supervision(command=("true",), rules=rules), Audience(say=lambda line: None)).run()
    assert asked == [(1, None), (2, 15), (3, 10), (1, None), (2, 0)]


def test_where_nothing_can_be_seen_there_is_nothing(tmp_path: Path) -> None:
    assert step_back(str(tmp_path), "a", 1) is None
    holdfast.save(str(tmp_path), {"w": np.zeros(3)}, step=5, run="a")
    assert step_back(str(tmp_path), "a", 1) is None  # the newest is the only one


def test_a_store_that_does_not_answer_is_not_waited_for(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "sitecustomize.py").write_text("import time; time.sleep(100)")
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.setattr("holdfast.supervisor.earlier.LOOK_SECONDS", 0.2)
    assert step_back(str(tmp_path), "a", 1) is None


def test_what_others_print_in_that_process_hides_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for step in (5, 10):
        holdfast.save(str(tmp_path / "r"), {"w": np.zeros(3)}, step=step, run="a")
    (tmp_path / "sitecustomize.py").write_text("print('Welcome to this cluster {you}!')")
    monkeypatch.syspath_prepend(tmp_path)
    assert step_back(str(tmp_path / "r"), "a", 1) == 5
