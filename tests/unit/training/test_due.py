"""Whether another save is due."""

from __future__ import annotations

import time

from holdfast.domain.save_rules import EverySeconds, EverySteps, OnImprovement
from holdfast.training.due import Due


def test_a_rule_counts_from_where_it_was_marked() -> None:
    due = Due(EverySteps(10))
    assert due.reason(9, 0, 0.0, None) is None
    assert due.reason(10, 0, 0.0, None) == "every 10 steps"
    due.mark(10, 0)
    assert due.reason(19, 0, 0.0, None) is None
    assert due.reason(20, 0, 0.0, None) == "every 10 steps"


def test_nothing_new_is_not_saved_again_however_late_it_is() -> None:
    due = Due(EverySeconds(1.0))
    due.mark(5, 1)
    long_ago = time.monotonic() - 100
    assert due.reason(5, 1, long_ago, None) is None
    assert due.reason(5, 2, long_ago, None) == "every 1 second"
    assert due.reason(5, 2, time.monotonic(), None) is None


def test_an_improvement_is_something_new() -> None:
    due = Due(OnImprovement())
    due.mark(5, 1)
    assert due.reason(5, 1, 0.0, None, improved=True) == "best"


def test_without_a_rule_nothing_is_due() -> None:
    assert Due(None).reason(1000, 10, 0.0, None, improved=True) is None
