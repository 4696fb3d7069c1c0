"""Slots: bounded, used again, and never left unusable by a lack of memory."""

from __future__ import annotations

import os
import sys
from pathlib import Path

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


def test_what_is_outgrown_gives_its_memory_to_the_larger_one(
    some: slots.Slots, monkeypatch: pytest.MonkeyPatch
) -> None:
    some.take(set(), SMALL)
    shared = os.dup(some[0].descriptor)  # as the agent has it
    monkeypatch.setattr(slots, "available_bytes", lambda: 0 if os.fstat(shared).st_blocks else 1 << 40)
    assert some.take(set(), LARGE) == 0
    assert some[0].size_bytes >= LARGE
    some.close()
    os.close(shared)


def test_one_is_made_ahead_and_taken_when_it_is_needed(some: slots.Slots, made: list[int]) -> None:
    some.prepare(set(), SMALL)
    some.prepare(set(), SMALL)  # one at a time
    assert made == []
    assert some.take(set(), SMALL) == 0
    assert made == [0]
    some.prepare(set(), SMALL)  # one is free
    assert some.take({0}, SMALL) == 1
    some.prepare({0, 1}, SMALL)  # there may be no more
    assert some.take({0, 1}, SMALL) is None
    some.close()


def test_one_made_ahead_that_is_too_small_is_let_go(some: slots.Slots) -> None:
    some.prepare(set(), SMALL)
    assert some.take(set(), LARGE) == 0
    assert some[0].size_bytes >= LARGE
    some.close()


def test_one_that_could_not_be_made_ahead_is_tried_again(
    some: slots.Slots, monkeypatch: pytest.MonkeyPatch
) -> None:
    available = slots.available_bytes
    monkeypatch.setattr(slots, "available_bytes", lambda: 0)
    some.prepare(set(), SMALL)
    assert some._ahead is not None
    assert some._ahead.slot() is None
    monkeypatch.setattr(slots, "available_bytes", available)
    assert some.take(set(), SMALL) == 0
    some.close()


def test_another_is_used_rather_than_the_spared_one(some: slots.Slots) -> None:
    some.take(set(), SMALL)
    some.take({0}, SMALL)
    assert some.take(set(), SMALL, spared=0) == 1
    assert some.take({1}, SMALL, spared=0) == 0
    some.close()


def test_one_that_nobody_took_is_closed(some: slots.Slots) -> None:
    before = set(Path("/proc/self/fd").iterdir())
    some.prepare(set(), SMALL)
    some.close()
    assert set(Path("/proc/self/fd").iterdir()) <= before
