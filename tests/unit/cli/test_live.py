"""The live view: what each run is at, in a line."""

from __future__ import annotations

import io
import time
from typing import Any

import pytest

from holdfast.cli.live import Losses, cells, sparkline, view


def told(step: int = 12, loss: float | None = 0.5, **more: Any) -> dict[str, Any]:
    pulse = {"phase": "stepping", "step": step, "loss": loss, "longest_save_seconds": 0.25}
    latest = {"step": 10, "saved_seconds": time.time() - 60}
    known = {"run": "digits", "state": "live", "attempt": "000003-ab", "latest": latest, "pulse": pulse}
    return known | {"memory": {"step": 11}, "next_step": 20} | more


@pytest.mark.parametrize(
    ("values", "bars"),
    [
        ([], ""),
        ([3.0], "▁"),
        ([1.0, 1.0], "▁▁"),
        ([0.0, 1.0, 2.0, 7.0], "▁▂▃█"),
        ([float("nan"), 1.0, float("inf"), 0.0], "█▁"),
        ([-1.7e308, 1.7e308], "▁▁"),
    ],
)
def test_a_sparkline(values: list[float], bars: str) -> None:
    assert sparkline(values) == bars


def test_a_run_in_a_line() -> None:
    assert cells(told(), [1.0, 0.5]) == [
        *("digits", "stepping", "3", "12", "0.5", "█▁"),
        *("step 10, 60 s ago", "step 11", "in 8 steps", "0.25 s"),
    ]


def test_a_run_of_which_little_is_known() -> None:
    little = told(pulse=None, latest=None, memory=None, next_step=None, attempt=None)
    assert cells(little, []) == ["digits", "live", "-", "-", "-", "", "-", "-", "-", "-"]


def test_a_save_that_is_overdue_is_not_to_come() -> None:
    assert cells(told(step=25), [])[8] == "-"


def test_losses_go_back_with_the_run() -> None:
    losses = Losses()
    for step, loss in ((1, 1.0), (2, 2.0), (3, 3.0), (3, 4.0)):
        seen = losses.noted(told(step, loss))
    assert seen == [1.0, 2.0, 4.0]
    assert losses.noted(told(2, 9.0)) == [1.0, 9.0]
    assert losses.noted(told(3, None)) == [1.0, 9.0]
    assert losses.noted(told(7, 5.0, run="other")) == [5.0]
    for step in range(100):
        seen = losses.noted(told(step, float(step)))
    assert len(seen) == 24


def shown(*runs: dict[str, Any]) -> str:
    from rich.console import Console

    out = io.StringIO()
    Console(file=out, width=200).print(view(runs, Losses()))
    return out.getvalue()


def test_names_do_not_steer_the_terminal() -> None:
    text = shown(told(run="[red]x\x1b[2J"))
    assert "[red]x" in text
    assert "\x1b" not in text


def test_no_run() -> None:
    assert "No run is live." in shown()
