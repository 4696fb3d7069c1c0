"""Whether a resumed training joins what it was."""

from __future__ import annotations

import math

import pytest

from holdfast.domain.joining import TAIL, compare_probe, probe_of, tail_of


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
