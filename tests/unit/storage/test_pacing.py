"""Pacing, with a clock of its own: no more than the rate, and nothing lost of it."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from holdfast.errors import UsageError
from holdfast.storage.pacing import Pace, parse_rate, parse_requests


class Clock:
    def __init__(self) -> None:
        self.seconds = 100.0

    def now(self) -> float:
        return self.seconds

    def sleep(self, seconds: float) -> None:
        assert seconds > 0
        self.seconds += seconds


@given(
    rate=st.floats(1, 1e9),
    sent=st.lists(st.tuples(st.floats(0, 50), st.integers(0, 1 << 26)), min_size=1, max_size=30),
)
def test_whatever_is_sent_stays_below_the_rate(rate: float, sent: list[tuple[float, int]]) -> None:
    clock = Clock()
    pace = Pace(rate, clock.now, clock.sleep)
    began: list[tuple[float, int]] = []
    for pause_seconds, size_bytes in sent:
        clock.seconds += pause_seconds
        pace.wait(size_bytes)
        began.append((clock.seconds, size_bytes))
    for number, (start, _) in enumerate(began):
        for later in range(number + 1, len(began)):
            between = sum(size for _, size in began[number:later])
            assert between <= rate * (began[later][0] - start) * (1 + 1e-6) + 1e-3 * rate


def test_nobody_waits_who_is_slower_than_the_rate() -> None:
    clock = Clock()
    pace = Pace(1000.0, clock.now, clock.sleep)
    for _ in range(5):
        before = clock.seconds
        pace.wait(1000)
        assert clock.seconds == before
        clock.seconds += 1.0


@pytest.mark.parametrize(
    ("text", "rate"), [("20MB/s", 2e7), ("1.5 kB/s", 1500), ("3GB", 3e9), ("700B/s", 700), (" 1MB ", 1e6)]
)
def test_rates(text: str, rate: float) -> None:
    assert parse_rate(text) == rate


def test_requests() -> None:
    assert parse_requests("2.5/s") == 2.5
    for text in ("", "0/s", "5", "5/m", "-1/s"):
        with pytest.raises(UsageError, match="is no number of requests"):
            parse_requests(text)


@pytest.mark.parametrize("text", ["", "fast", "20", "-1MB/s", "0MB/s", "20 mb/s", "1e3kB", "20MB/m"])
def test_what_is_no_rate_is_refused(text: str) -> None:
    with pytest.raises(UsageError, match="is no rate"):
        parse_rate(text)
