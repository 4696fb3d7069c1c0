"""Whether training goes well: what is found in series of numbers, and what is not."""

from __future__ import annotations

import math
import random
import sys
from collections.abc import Iterable

import pytest
from hypothesis import given
from hypothesis import strategies as st

from holdfast.domain.health import BLOCK_VALUES, LEAST_BLOCKS, Collectives, Finding, Heights, Pace, Plateau
from holdfast.domain.usual import ENOUGH, WINDOW, Window, usual


def noise(count: int, center: float = 1.0, sigma: float = 0.1, seed: int = 0) -> list[float]:
    rng = random.Random(seed)
    return [rng.gauss(center, sigma) for _ in range(count)]


def found(detector: Heights | Plateau | Pace, values: Iterable[float]) -> list[tuple[int, str]]:
    taken = ((number, detector.take(value)) for number, value in enumerate(values))
    return [(number, finding.kind) for number, finding in taken if finding is not None]


def losses() -> Heights:
    return Heights("loss", "spike")


def test_a_few_wild_values_move_neither_the_median_nor_sigma_far() -> None:
    calm = noise(100)
    wild = usual([*calm, 1e30, -1e30, 1e6])
    assert wild.center == pytest.approx(usual(calm).center, abs=0.02)
    assert wild.sigma == pytest.approx(0.1, rel=0.25)


def test_noise_and_a_falling_loss_are_well() -> None:
    assert found(losses(), noise(20_000)) == []
    assert found(losses(), (5 * math.exp(-n / 300) + v for n, v in enumerate(noise(5000, 0.0)))) == []
    assert found(losses(), [0.5] * 500) == []


def test_a_loss_that_stays_high_is_found_at_the_third_value_and_told_once() -> None:
    assert found(losses(), [*noise(200), *noise(50, 2.0)]) == [(202, "spike")]


def test_one_hard_batch_is_no_spike() -> None:
    assert found(losses(), [*noise(100), 50.0, *noise(100), 50.0, 50.0, *noise(100)]) == []


def test_another_rise_after_a_quiet_time_is_told_again() -> None:
    rise = [9.0] * 3
    again = found(losses(), [*noise(200), *rise, *noise(50), *rise, *noise(200), *rise])
    assert again == [(202, "spike"), (458, "spike")]


def test_the_first_loss_that_is_not_finite_is_found_also_before_anything_is_usual() -> None:
    assert found(losses(), [1.0, math.nan, math.nan, math.inf]) == [(1, "not-finite")]
    assert found(losses(), [-math.inf]) == [(0, "not-finite")]


def test_a_scaled_gradient_may_be_infinite_twice() -> None:
    gradients = Heights("gradient norm", "gradient", not_finite=3)
    assert found(gradients, [1.0, math.inf, math.inf, 1.0, math.inf, math.inf]) == []
    assert found(gradients, [math.inf]) == [(0, "not-finite")]


def test_values_from_before_count_at_once() -> None:
    assert found(Heights("loss", "spike", known=noise(ENOUGH)), [9.0] * 3) == [(2, "spike")]
    assert found(Heights("loss", "spike", known=noise(ENOUGH - 1)), [9.0] * 3) == []


def test_a_plateau_is_found_after_as_long_again_as_it_took_to_get_there() -> None:
    falling = [10 - n / 1000 + v for n, v in enumerate(noise(6000))]
    flat = noise(20_000, 4.0, seed=1)
    assert found(Plateau(), falling) == []
    ((number, kind),) = found(Plateau(), falling + flat)
    assert kind == "plateau"
    assert 11_900 <= number <= 14_000
    assert found(Plateau(), flat[: BLOCK_VALUES * LEAST_BLOCKS]) == []


def test_what_gets_better_again_is_no_plateau_any_more() -> None:
    flat, lower, last = noise(4000), noise(100, 0.5, seed=2), noise(30_000, 0.5, seed=3)
    kinds = [kind for _, kind in found(Plateau(), [*flat, *lower, *last])]
    assert kinds == ["plateau", "plateau"]


def test_a_collapse_of_speed_is_found_and_a_slow_step_is_not() -> None:
    steps = noise(300, 0.1, 0.01)
    assert found(Pace(), steps) == []
    assert found(Pace(), [*steps, 60.0, *steps, 60.0, 60.0, *steps]) == []
    assert found(Pace(), [*steps, *[0.5] * 40]) == [(309, "slow")]


def test_a_worker_in_two_that_is_slow_is_found_too() -> None:
    ((_, kind),) = found(Pace(), [*noise(300, 0.1, 0.01), *[0.1, 1.0] * 30])
    assert kind == "slow"


def test_short_steps_may_vary() -> None:
    assert found(Pace(), [*[1e-3] * 300, *[0.1] * 100]) == []


@given(st.lists(st.floats(), max_size=400))
def test_no_numbers_break_a_detector(values: list[float]) -> None:
    for detector in (losses(), Plateau(), Pace()):
        if isinstance(detector, Pace):
            values = [abs(value) for value in values if math.isfinite(value)]
        for value in values:
            finding = detector.take(value)
            assert finding is None or isinstance(finding, Finding)


def test_memory_is_bounded() -> None:
    window = Window()
    for value in noise(5 * WINDOW):
        window.add(value)
    assert len(window._values) == WINDOW
    plateau = Plateau()
    for value in noise(5000):
        plateau.take(value)
    assert len(plateau._block) < BLOCK_VALUES
    assert sys.getsizeof(plateau._block) < 10_000


def waits(seconds: Iterable[float]) -> list[tuple[int, str]]:
    detector = Collectives()
    told = [(step, detector.take(step, value)) for step, value in enumerate(seconds, 1)]
    return [(step, finding.kind) for step, finding in told if finding is not None]


def test_collectives_that_take_several_times_what_they_took_are_found_once() -> None:
    usual = noise(20, 0.05, 0.01)
    assert waits(usual) == []
    assert waits([*usual, 2.0, 2.0, *usual, 2.0]) == []
    assert waits([*usual, *[2.0] * 6]) == [(23, "collectives")]
    assert waits([*[1e-4] * 20, *[0.09] * 9]) == [], "what takes no time is nothing, however often it is that"


def test_a_step_that_was_timed_is_taken_once() -> None:
    detector = Collectives()
    for step, seconds in enumerate(noise(20, 0.05, 0.01)):
        detector.take(step, seconds)
    assert [detector.take(30, 9.0) for _ in range(5)] == [None] * 5
