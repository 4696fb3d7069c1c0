"""When an attempt saves: what is reported, and schedules of both frameworks, bring saves forward."""

from __future__ import annotations

import time
from typing import Any, cast

import paddle
import pytest
import torch

from holdfast.domain.failures import Reliability
from holdfast.domain.save_rules import Auto, EverySteps, SaveRule
from holdfast.training.saving import Saver
from holdfast.training.schedules import Schedules
from holdfast.training.timing import Timing

SOON = Auto(share=0.01, least_seconds=0.0)


class Cost:
    """As much of a saver as tells when the last save was, and what it cost."""

    hold_seconds = None

    def __init__(self, seconds: float | None, ago_seconds: float) -> None:
        self.burden_seconds = seconds
        self.saved_at = self.held_at = time.monotonic() - ago_seconds


def timing(rule: SaveRule, state: dict[str, Any], past: Reliability = Reliability()) -> Timing:  # noqa: B008
    made = Timing(rule, None)
    made._disk._started = made._began = time.monotonic() - 1e4  # an attempt that is no longer young
    made.begin(state, lambda: past)
    made.saved((1, 0))
    return made


def reason(made: Timing, *, cost: float | None = 0.1, ago: float = 60.0) -> str | None:
    return made.reason((2, 0), cast("Saver", Cost(cost, ago)), improved=False)


def torch_optimizer() -> tuple[Any, Any]:
    optimizer = torch.optim.SGD([torch.nn.Parameter(torch.zeros(1))], lr=0.1)
    return optimizer, torch.optim.lr_scheduler.MultiStepLR(optimizer, [3], gamma=0.1)


def paddle_optimizer() -> tuple[Any, Any]:
    scheduler = paddle.optimizer.lr.MultiStepDecay(0.1, [3], gamma=0.1)
    layer = paddle.nn.Linear(1, 1)
    return paddle.optimizer.SGD(scheduler, parameters=layer.parameters()), scheduler


@pytest.mark.filterwarnings("ignore:Detected call of:UserWarning")
@pytest.mark.parametrize("make", [torch_optimizer, paddle_optimizer])
def test_a_milestone_of_a_schedule_brings_a_save_forward_once(make: Any) -> None:
    optimizer, scheduler = make()
    made, said = timing(SOON, {"nested": [optimizer]}), []
    for _ in range(4):
        said.append(reason(made))
        scheduler.step()
        if said[-1] is not None:
            made.saved((1, 0))
    assert [*said, reason(made)] == [None, None, None, "auto: the learning rate changes", None]


def test_what_is_no_plain_number_is_not_looked_at() -> None:
    rate = torch.tensor(0.1)
    optimizer = torch.optim.Adam(
        [torch.nn.Parameter(torch.zeros(1))], lr=rate, capturable=False, foreach=False
    )
    schedules = Schedules()
    schedules.begin({"optimizer": optimizer, "other": 5})
    assert schedules.look() == ([], [])


def test_an_improved_metric_brings_a_save_forward_until_there_is_one() -> None:
    made = timing(SOON, {})
    made.reported({"val_loss": 3.0})
    assert reason(made) is None
    made.reported({"val_loss": torch.tensor(2.0), "note": "text", "losses": [1]})
    assert reason(made, ago=5.0) is None  # not before its cost allows
    assert reason(made) == "auto: val_loss improved"
    made.saved((1, 0))
    assert reason(made) is None


def test_other_rules_are_not_moved_by_that() -> None:
    optimizer, scheduler = torch_optimizer()
    made = timing(EverySteps(100), {"optimizer": optimizer})
    made.reported({"val_loss": 3.0})
    made.reported({"val_loss": 2.0})
    optimizer.param_groups[0]["lr"] /= 10
    assert reason(made) is None
    assert made.choice(cast("Saver", Cost(0.1, 60.0))) is None
    del scheduler


def test_failures_of_the_past_bring_saves_closer() -> None:
    often, rarely = Reliability(100, 7200.0), Reliability()
    assert reason(timing(SOON, {}, often), ago=30.0) == "auto"
    assert reason(timing(SOON, {}, rarely), ago=30.0) is None
