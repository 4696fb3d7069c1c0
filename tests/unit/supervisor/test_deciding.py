"""What follows a launch: the rule of its cause, as far as the run gets further."""

from __future__ import annotations

import pytest

from holdfast.supervisor.causes import Cause
from holdfast.supervisor.deciding import Budget, Launch, Restart, Stop, decide, streak
from holdfast.supervisor.rules import RULES, Rule

CRASHES = {Cause.CRASH: Rule(3, 0.0, 2), Cause.DISK_FULL: Rule(9, 60.0)}
PLENTY = Budget(1000, 3600.0)


def crashed(*steps: int, cause: Cause = Cause.CRASH) -> list[Launch]:
    return [Launch(cause=cause, step=step, ended_seconds=10.0 * n) for n, step in enumerate(steps)]


def after(*steps: int, cause: Cause = Cause.CRASH, dice: float = 0.5) -> Restart | Stop:
    return decide(crashed(*steps, cause=cause), CRASHES, PLENTY, 100.0, dice)


def test_a_first_crash_is_followed_at_once() -> None:
    assert after(50) == Restart(0.0)


def test_getting_further_forgives_what_was() -> None:
    assert after(10, 20, 30, 40, 50) == Restart(0.0)
    assert streak(crashed(10, 10, 10, 11)) == 1


def test_the_same_step_again_goes_back_further_each_time_and_waits_longer() -> None:
    assert after(50, 50) == Restart(2.0, back=1)
    assert after(50, 50, 50) == Restart(4.0, back=2)
    stopped = after(50, 50, 50, 50)
    assert isinstance(stopped, Stop)
    assert "no further than step 50" in stopped.why


def test_not_getting_as_far_counts_as_the_same() -> None:
    assert after(50, 30) == Restart(2.0, back=1)


def test_a_launch_that_never_steps_is_not_repeated_for_ever() -> None:
    assert isinstance(after(0, 0, 0, 0), Stop)


@pytest.mark.parametrize(("dice", "seconds"), [(0.0, 60.0), (0.5, 120.0), (0.999, 180.0)])
def test_waits_double_and_are_spread(dice: float, seconds: float) -> None:
    assert after(5, cause=Cause.DISK_FULL, dice=dice) == Restart(60.0)
    restart = after(5, 5, cause=Cause.DISK_FULL, dice=dice)
    assert isinstance(restart, Restart)
    assert restart.wait_seconds == pytest.approx(seconds, abs=0.5)


def test_no_wait_is_longer_than_five_minutes_and_a_half_more() -> None:
    restart = after(*[5] * 9, cause=Cause.DISK_FULL, dice=1.0)
    assert restart == Restart(450.0)


def test_a_cause_without_a_rule_or_told_to_stop_ends_it() -> None:
    assert after(5, cause=Cause.TAKEN) == Stop()
    assert decide(crashed(5, cause=Cause.FINISHED), RULES, PLENTY, 0.0, 0.0) == Stop()


def test_the_budget_counts_what_lies_in_its_window() -> None:
    history = crashed(*range(1, 11))  # at 0, 10 ... 90 s
    assert isinstance(decide(history, CRASHES, Budget(9, 1000.0), 90.0, 0.5), Stop)
    assert isinstance(decide(history, CRASHES, Budget(10, 1000.0), 90.0, 0.5), Restart)
    assert isinstance(decide(history, CRASHES, Budget(3, 25.0), 90.0, 0.5), Restart)
    assert isinstance(decide(history, CRASHES, Budget(2, 25.0), 90.0, 0.5), Stop)
