"""Slots: bounded, used again, and never left unusable by a lack of memory."""

from __future__ import annotations

import sys

import pytest

from holdfast.training import slots

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="memory shared without a name is Linux's")
SMALL, LARGE = 1 << 20, 8 << 20


@pytest.fixture
def made() -> list[int]:
    return []


@pytest.fixture
def some(made: list[int]) -> slots.Slots:
    return slots.Slots(lambda number, slot: made.append(number), slots.IN_FLIGHT)


def test_a_free_one_is_used_again_and_two_are_the_limit(some: slots.Slots, made: list[int]) -> None:
    assert some.take(set(), SMALL) == 0
    assert some.take(set(), SMALL) == 0
    assert some.take({0}, SMALL) == 1
    assert some.take({0, 1}, SMALL) is None
    assert made == [0, 1]
    some.close()


def test_one_that_is_outgrown_is_replaced(some: slots.Slots, made: list[int]) -> None:
    some.take(set(), SMALL)
    assert some.take(set(), LARGE) == 0
    assert some[0].size_bytes >= LARGE
    assert made == [0, 0]
    some.close()


def test_without_memory_for_a_larger_one_the_smaller_stays_usable(
    some: slots.Slots, monkeypatch: pytest.MonkeyPatch
) -> None:
    some.take(set(), SMALL)
    some.take({0}, SMALL)
    monkeypatch.setattr(slots, "available_bytes", lambda: 0)
    assert some.take({0}, LARGE) is None
    assert some.take({0}, SMALL) == 1
    assert some[1].descriptor >= 0
    with pytest.raises(MemoryError):
        some.take(set(), LARGE)
    some.close()
