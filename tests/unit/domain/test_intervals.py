"""How far apart saves should be."""

from __future__ import annotations

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from holdfast.domain.failures import Reliability
from holdfast.domain.intervals import Bounds, best_interval_seconds, choose, span

BOUNDS = Bounds(share=0.01, least_seconds=10.0, most_seconds=1800.0)
costs = st.just(0.0) | st.floats(1e-9, 1e5)
means = st.floats(1e-3, 1e9)
seen = st.builds(Reliability, st.integers(0, 10_000), st.floats(0, 1e9))


def lost_share(interval: float, cost: float, mean: float) -> float:
    """Daly's complete model of what is lost: E[time] / time computed, without the time of a restart."""
    return mean / interval * math.expm1((interval + cost) / mean)


@pytest.mark.parametrize("mean", [10.0, 3600.0, 86400.0])
@pytest.mark.parametrize("relative", [1e-6, 1e-3, 0.05, 0.5])
def test_no_other_interval_loses_much_less(relative: float, mean: float) -> None:
    cost = relative * mean
    best = best_interval_seconds(cost, mean)
    least = min(lost_share(best * 1.05**n, cost, mean) for n in range(-60, 61))
    assert lost_share(best, cost, mean) <= least * 1.001


def test_where_a_save_is_cheap_it_is_youngs() -> None:
    assert best_interval_seconds(0.5, 86400.0) == pytest.approx(math.sqrt(2 * 0.5 * 86400), rel=0.01)


@given(costs, costs, means, means)
def test_it_never_decreases_as_cost_or_mean_grow(
    cost: float, other: float, mean: float, rarer: float
) -> None:
    (cost, dearer), (mean, rarer) = sorted((cost, other)), sorted((mean, rarer))
    here = best_interval_seconds(cost, mean)
    slack = 1e-9 * here
    assert 0 <= here <= best_interval_seconds(dearer, mean) + slack
    assert here <= best_interval_seconds(cost, rarer) + slack


@given(costs, seen)
def test_a_choice_keeps_within_bounds(cost: float, reliability: Reliability) -> None:
    choice = choose(cost, reliability, BOUNDS)
    assert 10.0 <= choice.soonest_seconds <= choice.interval_seconds <= 1800.0
    assert choice.overhead <= 0.01 or choice.interval_seconds == choice.soonest_seconds == 1800.0
    assert str(choice)


@given(costs, st.floats(0, 1e5), seen)
def test_dearer_saves_and_rarer_failures_never_bring_saves_closer(
    cost: float, more: float, reliability: Reliability
) -> None:
    interval = choose(cost, reliability, BOUNDS).interval_seconds
    slack = 1e-9 * interval
    assert choose(cost + more, reliability, BOUNDS).interval_seconds >= interval - slack
    assert choose(cost, reliability.after(more), BOUNDS).interval_seconds >= interval - slack


def test_the_choice_explains_itself_in_a_line() -> None:
    assert str(choose(0.5, Reliability(2, 43200.0), BOUNDS)) == (
        "saves every 3.1 min: a save costs 500 ms, a failure comes every 9.6 h (2 failures in 12 h); "
        "a failure loses 1.5 min on average, saving 0.27% of the time"
    )


@pytest.mark.parametrize(
    ("seconds", "text"),
    [(0.0, "0 ms"), (0.0042, "4.2 ms"), (1.0, "1.0 s"), (51.0, "51 s"), (294.0, "4.9 min"),
     (7200.0, "2.0 h"), (111600.0, "31 h"), (864000.0, "10 days")],
)  # fmt: skip
def test_a_span_of_time_has_two_digits(seconds: float, text: str) -> None:
    assert span(seconds) == text
