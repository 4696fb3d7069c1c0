"""What is found about the health of real runs, and what is done about it."""

from __future__ import annotations

import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from tests.integration.training.launching import run_of

import holdfast
from holdfast.domain.events import Found

CALM = [1.0 + n % 5 / 100 for n in range(40)]
RISE = [9.0] * 5


def train(
    place: Path,
    losses: list[Any],
    on_finding: str = "warn",
    report: Callable[[int], Any] | None = None,
    **options: Any,
) -> list[Found]:
    heard: list[Any] = []
    with holdfast.Checkpointer(
        place,
        {"a": 1},
        save=None,
        on_finding=on_finding,
        background=False,
        listeners=[heard.append],
        **options,
    ) as ckpt:
        for number in ckpt.steps(len(losses)):
            if report is not None:
                ckpt.report(grad_norm=report(number))
            ckpt.step(loss=losses[number])
    return [event for event in heard if isinstance(event, Found)]


def reasons(place: Path) -> dict[int, str]:
    run = run_of(place)
    return {c.step: run.summary(c).reason for c in run.checkpoints()}


def test_a_rise_is_told_once_and_training_goes_on(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (event,) = train(tmp_path, CALM + RISE + CALM)
    assert (event.kind, event.step, event.action) == ("spike", 43, "warn")
    assert (
        "WARNING: spike at step 43 of main: the loss is 9, 3 times in a row far above 1.02"
        in capsys.readouterr().err
    )
    assert reasons(tmp_path) == {85: "end"}


def test_a_gradient_norm_is_watched_where_it_is_reported(tmp_path: Path) -> None:
    norms = CALM + RISE
    (event,) = train(tmp_path, [1.0] * 45, report=lambda number: torch.tensor(norms[number]))
    assert (event.kind, event.step) == ("gradient", 43)


def test_a_rule_saves_at_once(tmp_path: Path) -> None:
    train(tmp_path, CALM + RISE + CALM, "spike: save", keep="all")
    assert reasons(tmp_path) == {43: "found: spike", 85: "end"}


def test_a_rule_stops_the_run_with_its_reason(tmp_path: Path) -> None:
    train(tmp_path, [*CALM, math.nan, *CALM], "not-finite: stop")
    (end,) = run_of(tmp_path).ends().values()
    assert (end.cause, end.step, end.done) == ("not-finite: the loss is nan", 41, True)


def test_a_rule_leaves_without_a_save_so_that_the_run_can_go_back(tmp_path: Path) -> None:
    with pytest.raises(holdfast.UnhealthyError, match="not well at step 43: the loss is 9") as caught:
        train(tmp_path, CALM + RISE, "back")
    assert (caught.value.kind, caught.value.exit_code) == ("unhealthy", 15)
    assert reasons(tmp_path) == {}
    (end,) = run_of(tmp_path).ends().values()
    assert end.cause.startswith("UnhealthyError: ")


def test_what_is_ignored_is_not_told(tmp_path: Path) -> None:
    assert train(tmp_path, CALM + RISE, "spike: ignore") == []


def test_a_loss_on_a_device_is_not_waited_for(tmp_path: Path) -> None:
    losses = [torch.zeros((), device="meta")] * 3  # reading it raises
    with holdfast.Checkpointer(tmp_path, {"a": 1}, save=None, on_finding="stop") as ckpt:
        for loss in losses:
            ckpt.step(loss=loss)
        ckpt.step(loss=1.0)


@pytest.mark.parametrize("text", ["shout", "spike: shout", "weather: warn", None])
def test_nonsense_is_refused_before_anything_is_written(tmp_path: Path, text: Any) -> None:
    with pytest.raises(holdfast.UsageError, match="on_finding="):
        holdfast.Checkpointer(tmp_path / "new", {"a": 1}, on_finding=text)
    assert not (tmp_path / "new").exists()
