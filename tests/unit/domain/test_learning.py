"""What makes the state of a moment worth more than that of the next."""

from __future__ import annotations

import math

import pytest

from holdfast.domain.learning import Records, is_jump, way_of


@pytest.mark.parametrize(
    ("metric", "way"),
    [("loss", "min"), ("val_loss", "min"), ("eval/Accuracy", "max"), ("top1.acc", "max"), ("ppl", "min"),
     ("glossary", None), ("lr", None), ("grad_norm", None)],
)  # fmt: skip
def test_the_name_of_a_metric_tells_which_way_it_improves(metric: str, way: str | None) -> None:
    assert way_of(metric) == way


def test_only_what_is_better_than_any_before_is_a_record() -> None:
    records = Records()
    values = [5.0, 4.0, 4.0, math.nan, 4.5, 3.0]
    assert [records.is_broken("val_loss", value) for value in values] == [
        False,
        True,
        False,
        False,
        False,
        True,
    ]
    assert [records.is_broken("acc", value) for value in (0.5, 0.4, 0.6)] == [False, False, True]
    assert not records.is_broken("speed", 1.0)


@pytest.mark.parametrize(
    ("before", "now", "jumps"),
    [
        ([0.1], [0.01], True),
        ([0.01], [0.1], True),
        ([0.1, 0.1], [0.1, 0.05], True),
        ([0.1], [0.099], False),
        ([0.1], [0.1], False),
        ([0.0], [0.1], False),
        ([], [], False),
    ],
)
def test_a_milestone_or_a_restart_is_a_jump_and_a_smooth_schedule_is_none(
    before: list[float], now: list[float], jumps: bool
) -> None:
    assert is_jump(before, now) is jumps
