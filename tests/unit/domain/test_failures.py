"""How often training dies, from how its attempts ended."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from holdfast.domain.failures import LONGEST_SILENCE_SECONDS, Life, Reliability, reliability

DAY_SECONDS = 86400.0


def test_before_anything_is_seen_a_failure_a_day_is_believed() -> None:
    assert reliability([], 5.0) == Reliability()
    assert Reliability().between_failures_seconds == DAY_SECONDS


@pytest.mark.parametrize(
    ("cause", "failed"),
    [
        (None, True),
        ("RuntimeError: CUDA error", True),
        ("MemoryError", True),
        ("SIGTERM", False),
        ("SIGINT", False),
        ("KeyboardInterrupt", False),
        ("SystemExit: 0", False),
        ("restart at 5", False),
        ("forked from other@5", False),
    ],
)
def test_a_crash_is_a_failure_and_a_notice_or_a_wish_is_none(cause: str | None, failed: bool) -> None:
    ended = None if cause is None else 50.0
    assert reliability([Life(0.0, ended, cause)], 100.0).failures == failed


def test_an_end_that_is_done_is_none() -> None:
    assert reliability([Life(0.0, 50.0, "finished", True)], 100.0) == Reliability(0, 50.0)


def test_an_attempt_that_recorded_no_end_lasted_until_the_next_at_most() -> None:
    killed_then_done = [Life(0.0), Life(40.0, 50.0, "finished", True)]
    assert reliability(killed_then_done, 1e6) == Reliability(1, 50.0)
    assert reliability([Life(0.0)], 30 * DAY_SECONDS).observed_seconds == LONGEST_SILENCE_SECONDS


def test_a_clock_that_went_back_takes_no_time_away() -> None:
    assert reliability([Life(100.0, 50.0, "OSError"), Life(100.0)], 90.0) == Reliability(2, 0.0)


@given(st.integers(0, 1000), st.floats(0, 1e9), st.floats(0, 1e9))
def test_time_without_failures_lengthens_the_mean_and_failures_shorten_it(
    failures: int, seconds: float, more: float
) -> None:
    seen = Reliability(failures, seconds)
    assert seen.after(more).between_failures_seconds >= seen.between_failures_seconds
    assert Reliability(failures + 1, seconds).between_failures_seconds < seen.between_failures_seconds
