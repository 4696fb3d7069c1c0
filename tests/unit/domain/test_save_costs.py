"""What a save costs training."""

from __future__ import annotations

import random

import pytest

from holdfast.domain.save_costs import SaveCosts

WAIT_SECONDS, SHARE_SECONDS = 0.05, 0.4


def trained(saves: int, *, beside_seconds: float, steps_beside: int = 10, steps_quiet: int = 20) -> SaveCosts:
    """Steps of 0.1 s with noise; with each save one that waits, then some that take another time."""
    costs, now, rng = SaveCosts(), 0.0, random.Random(1)

    def step(seconds: float, *, saving: bool) -> None:
        nonlocal now
        now += rng.gauss(seconds, 0.002)
        costs.stepped(now, saving=saving)

    for _ in range(saves):
        for _ in range(steps_quiet):
            step(0.1, saving=False)
        step(0.1 + WAIT_SECONDS, saving=True)
        for number in range(steps_beside):
            step(beside_seconds, saving=number + 1 < steps_beside)
        costs.saved(WAIT_SECONDS, SHARE_SECONDS)
    return costs


def test_before_the_first_save_it_is_unknown() -> None:
    assert SaveCosts().seconds is None


def test_until_the_slowdown_is_known_it_is_the_share_of_a_core() -> None:
    assert trained(1, beside_seconds=0.1).seconds == pytest.approx(WAIT_SECONDS + SHARE_SECONDS)
    assert trained(20, beside_seconds=0.2, steps_beside=1).seconds == pytest.approx(0.45)


def test_then_it_is_what_steps_beside_a_save_take_longer() -> None:
    assert trained(10, beside_seconds=0.13).seconds == pytest.approx(WAIT_SECONDS + 10 * 0.03, rel=0.1)


def test_the_step_in_which_a_save_begins_says_nothing_of_either() -> None:
    costs = trained(30, beside_seconds=0.2, steps_beside=4, steps_quiet=1)
    assert costs.seconds == pytest.approx(WAIT_SECONDS + 4 * 0.1, rel=0.05)


@pytest.mark.parametrize("beside_seconds", [0.1, 0.08])
def test_steps_that_are_no_slower_cost_nothing(beside_seconds: float) -> None:
    assert trained(10, beside_seconds=beside_seconds).seconds == pytest.approx(WAIT_SECONDS, abs=0.02)


def test_one_slow_save_does_not_move_it() -> None:
    costs = SaveCosts()
    for wait_seconds in (0.1, 30.0, 0.1):
        costs.saved(wait_seconds, 0.0)
    assert costs.seconds == 0.1
