"""Whether a resumed training joins what it was."""

from __future__ import annotations

import math
import random
from collections.abc import Callable

import pytest
from hypothesis import given
from hypothesis import strategies as st

from holdfast.domain.health import Heights
from holdfast.domain.joining import JOIN_STEPS, TAIL, Trend, compare_probe, probe_of, tail_of
from holdfast.domain.usual import ENOUGH


@pytest.mark.parametrize("saved", [None, 5, "losses", {"a": 1.0}, [], [math.nan, "1", None, 3]])
def test_what_is_no_tail_of_losses_is_none(saved: object) -> None:
    assert tail_of(saved) == []


def test_no_more_is_taken_than_is_ever_recorded() -> None:
    assert tail_of([float(n) for n in range(10_000)]) == [float(n) for n in range(10_000 - TAIL, 10_000)]


def test_what_is_no_probe_is_none() -> None:
    assert [probe_of(saved) for saved in (None, "1.0", [1.0], 1.5)] == [None, None, None, 1.5]


@pytest.mark.parametrize(
    ("recorded", "again", "exact", "same"),
    [
        (0.5, 0.5, True, True),
        (math.nan, math.nan, True, True),
        (0.0, -0.0, True, False),
        (0.5, math.nextafter(0.5, 1), True, False),
        (0.5, 0.5002, False, True),
        (0.5, 0.51, False, False),
        (0.5, math.nan, False, False),
    ],
)
def test_a_probe_gives_the_same_bits_or_nearly_where_bits_may_differ(
    recorded: float, again: float, exact: bool, same: bool
) -> None:
    finding = compare_probe(recorded, again, exact=exact)
    assert (finding is None) is same
    if finding is not None:
        assert finding.kind == "probe"
        assert repr(again) in finding.detail


# -- where losses lead ---------------------------------------------------------------------


def joins(known: list[float], losses: list[float]) -> bool:
    heights, trend = Heights("loss", "spike", known=known), Trend(known)
    found = [heights.take(loss, trend.expected(n)) for n, loss in enumerate(losses[:JOIN_STEPS], 1)]
    return not any(found)


COURSES: dict[str, tuple[Callable[[int], float], float]] = {
    "flat": (lambda t: 1.0, 0.05),
    "flat, without noise": (lambda t: 1.0, 0.0),
    "falling": (lambda t: 3 - 0.02 * t, 0.05),
    "falling fast": (lambda t: 0.5 + 3 * math.exp(-t / 10), 0.01),
    "rising": (lambda t: 1 + 0.01 * t, 0.05),
    "rising, without noise": (lambda t: 1 + 0.01 * t, 0.0),
    "rising since a while": (lambda t: 1 + 0.01 * max(0, t - 12), 0.002),
    "rising from below zero": (lambda t: -2 + 0.1 * t, 0.1),
}


@pytest.mark.parametrize("seed", range(10))
@pytest.mark.parametrize("course", COURSES)
def test_what_goes_on_as_it_did_joins_and_a_break_does_not(course: str, seed: int) -> None:
    (curve, sigma), rng = COURSES[course], random.Random(seed)
    losses = [curve(t) + rng.gauss(0, sigma) for t in range(TAIL + JOIN_STEPS)]
    known, after = losses[:TAIL], losses[TAIL:]
    assert joins(known, after)
    assert joins(known, [100.0, 100.0, *after[2:]]), "two hard batches"
    assert not joins(known, [loss + max(losses) for loss in after])
    assert not joins(known, [losses[0] + max(losses) + t for t in range(JOIN_STEPS)])


finite = st.floats(allow_nan=False, allow_infinity=False)


@given(st.floats(-1e3, 1e3), st.floats(-10, 10), st.integers(ENOUGH, TAIL))
def test_every_straight_line_joins_itself(start: float, slope: float, count: int) -> None:
    line = [start + slope * t for t in range(count + JOIN_STEPS)]
    assert joins(line[:count], line[count:])


@given(st.lists(finite, min_size=ENOUGH, max_size=TAIL), st.lists(st.floats(), max_size=JOIN_STEPS))
def test_no_losses_break_the_judgement(known: list[float], losses: list[float]) -> None:
    joins(known, losses)
