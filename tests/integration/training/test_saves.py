"""When real runs save: rules alone and joined, by hand, on request, at the end; never a bad state."""

from __future__ import annotations

import math
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from tests.integration.training.launching import Tell, at, count, launch, run_of, steps_in

import holdfast
from holdfast.domain.save_rules import Auto, Ladder, Observation
from holdfast.repository import records

Said = pytest.CaptureFixture[str]


def reasons(repository: Path, run: str = "main") -> dict[int, str]:
    found = run_of(repository, run)
    return {c.step: found.summary(c).reason for c in found.checkpoints()}


def pause(seconds: float) -> Callable[..., None]:
    return lambda *_: time.sleep(seconds)


class AtPrimes:
    """Anybody's rule."""

    def __str__(self) -> str:
        return "at primes"

    def due(self, seen: Observation) -> str | None:
        return "prime" if seen.moved and seen.step in (2, 3, 5) else None


@pytest.mark.parametrize(
    ("rule", "expected"),
    [
        (None, [6]),
        ("auto", [6]),
        ("every 2 steps", [2, 4, 6]),
        (holdfast.every(steps=4), [4, 6]),
        ("every 10 minutes", [6]),
        (holdfast.every(steps=4) | holdfast.every(minutes=10), [4, 6]),
        ("every 4 steps | every 3 steps", [3, 4, 6]),
        (AtPrimes(), [2, 3, 5, 6]),
        (holdfast.every(steps=4) | AtPrimes(), [2, 3, 4, 5, 6]),
        ("never", [6]),
    ],
    ids=str,
)
def test_rules_by_steps(rule: Any, expected: list[int], tmp_path: Path) -> None:
    count(tmp_path, save=rule, keep="all")
    assert steps_in(tmp_path) == expected
    assert run_of(tmp_path).summary(run_of(tmp_path).latest()).progress.step == 6


def test_every_so_many_epochs_saves_after_the_code_that_ends_them(tmp_path: Path) -> None:
    state: dict[str, Any] = {"epochs": 0}
    with holdfast.Checkpointer(tmp_path, state, save="every 2 epochs", keep="all") as ckpt:
        for _ in ckpt.epochs(5):
            for _item in ckpt.batches([1, 2, 3]):
                ckpt.step()
            state["epochs"] += 1
    checkpoints = list(holdfast.open(tmp_path)["main"])
    assert [(c.step, c.summary.progress.epoch) for c in checkpoints] == [(6, 2), (12, 4), (15, 5)]
    assert [c.load()["epochs"] for c in checkpoints] == [2, 4, 5]


def test_rules_by_time(tmp_path: Path) -> None:
    count(tmp_path / "s", save=holdfast.every(seconds=0.1), each=pause(0.06), keep="all")
    assert len(steps_in(tmp_path / "s")) in (3, 4)
    fast_auto = Auto(share=0.5, least_seconds=0.05, most_seconds=0.05)
    count(tmp_path / "a", save=fast_auto, each=pause(0.06), keep="all")
    assert len(steps_in(tmp_path / "a")) >= 4
    ladder = Ladder(rungs=((1, 2), (600, 1)))
    count(tmp_path / "l", save=ladder, each=lambda _, t: time.sleep(1.05 if t == 2 else 0), keep="all")
    assert steps_in(tmp_path / "l") == [3, 6]


def test_reports_on_the_best_make_it_save_at_that_step_with_that_metric(tmp_path: Path) -> None:
    losses = [5.0, 3.0, 4.0, 2.0, math.nan, 2.0, 1.0, 9.0]
    keep = holdfast.keep(last=50, best=1, monitor="val_loss")

    def report(ckpt: holdfast.Checkpointer, t: int) -> None:
        ckpt.report(val_loss=torch.tensor(losses[t]))

    count(tmp_path, until=8, save="best", each=report, keep=keep)
    found = list(holdfast.open(tmp_path)["main"])
    assert [c.step for c in found] == [1, 2, 4, 7, 8]
    assert [c.metrics["val_loss"] for c in found] == [5, 3, 2, 1, 9]
    assert holdfast.open(tmp_path)["main"]["best"].step == 7


def test_a_report_stays_with_the_state_it_is_about(tmp_path: Path) -> None:
    def report(ckpt: holdfast.Checkpointer, t: int) -> None:
        if t == 1:
            ckpt.report(accuracy=0.5)

    count(tmp_path, until=4, save="every 1 step", each=report, keep="all")
    metrics = {c.step: c.metrics for c in holdfast.open(tmp_path)["main"]}
    assert metrics == {
        1: {"loss": 1.0},
        2: {"loss": 0.5, "accuracy": 0.5},
        3: {"loss": 1 / 3},
        4: {"loss": 0.25},
    }


def test_in_a_loop_of_ones_own_a_report_before_step_belongs_to_it(tmp_path: Path) -> None:
    keep = holdfast.keep(last=50, best=1, monitor="val")
    with holdfast.Checkpointer(tmp_path, {"a": 1}, save=None, keep=keep) as ckpt:
        while ckpt.progress.step < 4:
            ckpt.report(val=abs(ckpt.progress.step - 2.0))
            ckpt.step()
    assert {c.step: c.metrics for c in holdfast.open(tmp_path)["main"]} == {
        1: {"val": 2.0},
        2: {"val": 1.0},
        3: {"val": 0.0},
        4: {"val": 1.0},
    }


def test_a_report_between_passes_of_ones_own_epochs_is_not_lost_silently(
    tmp_path: Path, capsys: Said
) -> None:
    keep = holdfast.keep(last=50, best=1, monitor="val")
    for place, by_hand in (("lost", False), ("saved", True)):
        with holdfast.Checkpointer(tmp_path / place, {"a": 1}, save=None, keep=keep) as ckpt:
            for _ in range(ckpt.progress.epoch, 3):
                for _item in ckpt.batches([1, 2]):
                    ckpt.step()
                ckpt.report(val=1.0)
                if by_hand:
                    ckpt.save()
        said = capsys.readouterr().err
        assert said.count("val, reported outside the loops, went into no checkpoint") == (not by_hand)
    found = [(c.step, c.metrics) for c in holdfast.open(tmp_path / "saved")["main"]]
    assert found == [(2, {"val": 1.0}), (4, {"val": 1.0}), (6, {"val": 1.0})]
    assert holdfast.open(tmp_path / "lost")["main"].latest.metrics == {"val": 1.0}


def test_a_report_after_the_loops_is_saved_at_the_end(tmp_path: Path) -> None:
    with holdfast.Checkpointer(tmp_path, {"a": 1}, save="every 1 step") as ckpt:
        for _ in ckpt.steps(2):
            pass
        ckpt.report(test_accuracy=0.9)
    assert holdfast.open(tmp_path)["main"].latest.metrics == {"test_accuracy": 0.9}


def test_saving_by_hand_in_a_loop_happens_at_its_end(tmp_path: Path) -> None:
    asked: list[Any] = []

    def ask(ckpt: holdfast.Checkpointer) -> None:
        asked.extend((ckpt.save(tag="x"), ckpt.save(tag="y")))
        assert not asked[0].done
        with pytest.raises(holdfast.UsageError, match="when the present turn of the loop ends"):
            asked[0].wait_durable(timeout_seconds=1)
        with pytest.raises(holdfast.UsageError, match="cannot be a tag"):
            ckpt.save(tag="latest")

    count(tmp_path, save=None, each=at(2, ask), keep="last 1")
    run = holdfast.open(tmp_path)["main"]
    assert [save.wait_durable().step for save in asked] == [3, 3]
    assert {name: c.step for name, c in run.tags.items()} == {"x": 3, "y": 3}
    assert [c.step for c in run] == [3, 6]
    assert reasons(tmp_path)[3] == "save()"


def test_saving_by_hand_outside_the_loops_happens_at_once(tmp_path: Path) -> None:
    state = {"w": np.zeros(3)}
    with holdfast.Checkpointer(tmp_path, state, save=None) as ckpt:
        before = ckpt.save(tag="before")
        assert before.wait_durable().step == 0
        for _ in ckpt.steps(2):
            state["w"] += 1
        assert ckpt.save(tag="after").checkpoint is not None
    run = holdfast.open(tmp_path)["main"]
    assert [run["before"].load()["w"][0], run["after"].load()["w"][0]] == [0, 2]
    assert len(run) == 2  # at the end nothing was new


def test_what_did_not_change_is_not_saved_twice(tmp_path: Path) -> None:
    for _ in range(3):
        with holdfast.Checkpointer(tmp_path, {"a": 1}, save="every 1 step | every 1 epoch") as ckpt:
            for _epoch in ckpt.epochs(1):
                for _item in ckpt.batches([1, 2]):
                    ckpt.step()
    run = run_of(tmp_path)
    places = [(c.step, run.summary(c).progress.epoch) for c in run.checkpoints()]
    assert places == [(1, 0), (2, 1)]  # the epoch's end took the place of its last step


# -- a loss that is no number --------------------------------------------------------------


@pytest.mark.parametrize("bad", [math.nan, math.inf, torch.tensor(math.nan), np.float32(math.inf)], ids=str)
def test_a_loss_that_is_not_finite_makes_no_recovery_point(bad: Any, tmp_path: Path, capsys: Said) -> None:
    with holdfast.Checkpointer(tmp_path, {"a": 1}, save="every 1 step", keep="last 2") as ckpt:
        for t in ckpt.steps(20):
            ckpt.step(loss=bad if t >= 3 else 1.0)
            if t == 10:
                asked = ckpt.save(tag="x")
    assert steps_in(tmp_path) == [2, 3]  # the good ones are still there
    assert asked.checkpoint is None
    assert "Step 11 was not saved: its loss is" in str(asked.error)
    said = capsys.readouterr().err
    assert 2 <= said.count("was not saved") <= 8  # once, then rarely
    assert "Step 4 was not saved" in said
    assert "Step 11 was not saved" in said  # this one was asked for


def test_saving_goes_on_once_the_loss_is_finite_again(tmp_path: Path) -> None:
    with holdfast.Checkpointer(tmp_path, {"a": 1}, save="every 2 steps", keep="all") as ckpt:
        for t in ckpt.steps(8):
            ckpt.step(loss=math.nan if t in (1, 2) else 1.0)
    assert steps_in(tmp_path) == [4, 6, 8]


# -- requests ------------------------------------------------------------------------------


def ask(repository: Path, nonce: str, tag: str | None = None, run: str = "main") -> None:
    found = run_of(repository, run)
    request = records.encode(records.RequestRecord(nonce, tag))
    found.storage.put(found.layout.request(nonce), [request])


def test_requests_of_other_processes_are_served_once(tmp_path: Path) -> None:
    def train(tell: Tell) -> None:
        def each(ckpt: holdfast.Checkpointer, t: int) -> None:
            if t == 0:
                tell("trains")
            time.sleep(0.02)

        count(tmp_path, until=120, save=None, each=each, keep="all")

    process = launch(train)
    assert process.heard() == "trains"
    ask(tmp_path, "aaaa", "mine")
    ask(tmp_path, "bbbb", "../../evil")  # not what 'holdfast save' writes
    run_of(tmp_path).storage.put(run_of(tmp_path).layout.request("cccc"), [b"nonsense"])
    assert process.wait() == 0, process.said
    made = reasons(tmp_path)
    assert len(made) == 2
    assert "request aaaa" in made[min(made)]
    assert run_of(tmp_path).tags()["mine"].step == min(made)
    assert list(run_of(tmp_path).storage.list(run_of(tmp_path).layout.requests)) == []


def test_only_the_outermost_serves_requests(tmp_path: Path) -> None:
    with holdfast.Checkpointer(tmp_path, {"a": 1}, run="outer", save=None) as outer:
        for _ in outer.steps(1):
            with holdfast.Checkpointer(tmp_path, {"b": 1}, run="inner", save=None) as inner:
                ask(tmp_path, "aaaa", run="inner")
                time.sleep(1.05)
                list(inner.steps(2))
    assert reasons(tmp_path, "inner") == {2: "end"}
