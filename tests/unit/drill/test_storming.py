"""What a storm is said to have cost."""

from __future__ import annotations

import msgspec
import pytest

from holdfast.drill.course import Moment, Strike
from holdfast.drill.storming import Weathered, told


def weathered(failure: str = "") -> Weathered:
    names = ("kill", "hang", "kill")
    return Weathered(
        command=("python", "train.py"),
        seed=7,
        save="every 1 step",
        run_flags="",
        steps=100,
        start_seconds=1.0,
        work_seconds=10.0,
        seconds=25.0,
        strikes=[Strike(name, Moment(1.0, 1, 1), 1.0, 1.0) for name in names],
        restarts=4,
        lost_steps=6,
        compared=106,
        failure=failure,
    )


def test_useful_work_beside_what_the_starts_alone_would_leave() -> None:
    assert weathered().useful == pytest.approx(10 / 25)
    assert weathered().ideal == pytest.approx(10 / (10 + 5 * 1))


@pytest.mark.parametrize(("failure", "verdict"), [("", "exact"), ("given up", "NOT exact")])
def test_one_line_has_it_all_with_the_seed(failure: str, verdict: str) -> None:
    assert told(weathered(failure)) == (
        "3 faults (kill 2, hang 1) in 25 s, 4 restarts, 6 steps lost; useful work 40% of the time, 67% would "
        f"be ideal; {verdict} (--seed 7)"
    )


def test_one_of_a_kind_is_told_as_one() -> None:
    one = msgspec.structs.replace(weathered(), strikes=weathered().strikes[:1], restarts=1, lost_steps=1)
    assert told(one).startswith("1 fault (kill 1) in 25 s, 1 restart, 1 step lost; ")
