"""What a fault cost, from what was seen."""

from __future__ import annotations

import pytest

from holdfast.drill.course import Moment, Recovery, Strike, joined, launches, lost_steps, recovery

BEFORE = [Moment(1.0, 1, 1), Moment(2.0, 1, 2), Moment(3.0, 1, 3)]


def struck(seconds: float = 3.0) -> Strike:
    return Strike("kill", BEFORE[-1], seconds, seconds)


def test_a_launch_that_goes_on_from_before_has_lost_steps() -> None:
    after = [Moment(3.1, 1, 4), Moment(6.0, 2, 2, 2), Moment(6.5, 2, 4, 2), Moment(7.0, 2, 5, 2)]
    assert recovery([*BEFORE, *after], struck()) == Recovery(2, 4.0)


def test_only_a_step_beyond_all_before_ends_the_recovery() -> None:
    again = [Moment(5.0, 2, 3, 2), Moment(6.0, 3, 3, 1), Moment(8.0, 3, 4, 1)]
    assert recovery([*BEFORE, *again], struck()) == Recovery(2, 5.0)


def test_what_goes_on_by_itself_has_lost_nothing() -> None:
    assert recovery([*BEFORE, Moment(5.5, 1, 4)], struck()) == Recovery(0, 2.5)


@pytest.mark.parametrize(("after", "lost"), [([], 0), ([Moment(6.0, 2, 2, 1)], 2)])
def test_what_never_comes_back_has_no_time(after: list[Moment], lost: int) -> None:
    assert recovery([*BEFORE, *after], struck()) == Recovery(lost, None)


def test_only_what_is_new_is_remembered() -> None:
    moments = list(BEFORE)
    joined(moments, Moment(9.0, 1, 3))
    assert moments == BEFORE
    joined(moments, Moment(9.0, 2, 3, 3))
    assert len(moments) == 4


def test_lost_steps_add_up_launch_by_launch() -> None:
    moments = [
        *BEFORE,
        Moment(4.0, 2, 2, 2),
        Moment(4.5, 2, 3, 2),
        Moment(5.0, 3, 1, 1),
        Moment(6.0, 3, 9, 1),
    ]
    assert lost_steps(moments) == 1 + 2
    assert launches(moments) == 3


def test_without_a_moment_nothing_is_lost() -> None:
    assert lost_steps([]) == launches([]) == 0
