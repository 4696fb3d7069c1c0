"""What an agent holds: the newest snapshot, durable or not, and what a successor gets of it."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator

import pytest

from holdfast.agent.holdings import Holdings
from holdfast.errors import StorageError, SupersededError
from holdfast.node.arena import Slot
from holdfast.node.messages import Done, Held, Inheritance, Kept, Staged, describe

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="memory shared without a name is Linux's")


@pytest.fixture
def held() -> Iterator[Holdings]:
    holdings = Holdings()
    for number in range(3):
        holdings.put(number, Slot.create(4096))
    yield holdings
    holdings.clear()


def in_memory(sequence: int, slot: int = 0) -> Staged:
    return Staged(sequence, sequence * 10, slot, 100, 50, durable=False)


def test_a_durable_snapshot_is_handed_on_with_the_slots(held: Holdings) -> None:
    held.staged(Staged(1, 10, 2, 100, 50))
    assert held.take_unsaved(failed_seconds_ago=0.0) is None  # somebody saves it already
    held.decided(Done(1, checkpoint="c"))
    message, descriptors = held.inheritance(alone=True)
    assert message == Inheritance(Kept("c", 2, 100, 50))
    assert [os.fstat(d).st_size for d in descriptors] == [4096] * 3
    assert held.inheritance(alone=True)[0] == message  # its heir may die as well


def test_one_in_memory_only_has_to_be_saved_first(held: Holdings) -> None:
    held.staged(in_memory(1))
    unsaved = held.take_unsaved(failed_seconds_ago=0.0)
    assert unsaved is not None
    assert unsaved[1] is held[0]
    assert held.take_unsaved(failed_seconds_ago=0.0) is None
    held.decided(Done(1, checkpoint="c"))
    assert held.inheritance(alone=True)[0].kept == Kept("c", 0, 100, 50)


def test_one_that_cannot_be_saved_is_tried_again_and_lost_to_an_heir(held: Holdings) -> None:
    held.staged(in_memory(1))
    held.take_unsaved(failed_seconds_ago=0.0)
    held.decided(Done(1, failure=describe(StorageError("The disk is full."))))
    assert held.take_unsaved(failed_seconds_ago=60.0) is None
    assert held.take_unsaved(failed_seconds_ago=0.0) is not None
    held.decided(Done(1, failure=describe(StorageError("The disk is full."))))
    assert held.inheritance(alone=True)[0] == Inheritance(None, "The disk is full.")
    assert not held.any_kept


def test_what_another_may_write_to_goes_to_nobody_but_what_was_lost_is_told(held: Holdings) -> None:
    held.staged(in_memory(1))
    held.take_unsaved(failed_seconds_ago=0.0)
    held.decided(Done(1, failure=describe(StorageError("The disk is full."))))
    assert held.inheritance(alone=False) == (Inheritance(None, "The disk is full."), [])
    assert len(held) == 0


def test_one_of_a_run_that_others_go_on_with_is_not_tried_again(held: Holdings) -> None:
    held.staged(in_memory(1))
    held.take_unsaved(failed_seconds_ago=0.0)
    held.decided(Done(1, failure=describe(SupersededError("Somebody took over."))))
    assert not held.any_kept


def test_a_newer_one_takes_the_place_of_the_one_before(held: Holdings) -> None:
    held.staged(in_memory(1, slot=0))
    held.staged(in_memory(2, slot=1))
    held.reclaimed(0)  # the older one: nothing to forget
    assert held.any_kept
    held.decided(Done(1, checkpoint="old"))
    assert held.inheritance(alone=True)[0].kept is None


@pytest.mark.parametrize("how", ["reclaimed", "withdrawn", "replaced"])
def test_a_snapshot_whose_slot_goes_is_forgotten(held: Holdings, how: str) -> None:
    held.staged(in_memory(7, slot=1))
    if how == "reclaimed":
        held.reclaimed(1)
    elif how == "withdrawn":
        held.withdrawn(7)
    else:
        held.put(1, Slot.create(8192))
    assert not held.any_kept


def test_who_looks_sees_memory_and_newest_snapshot(held: Holdings) -> None:
    assert held.seen(serving=True) == Held(3 * 4096, None, None, True)
    held.staged(in_memory(2))
    assert held.seen(serving=False) == Held(3 * 4096, 20, None, False)


def test_what_an_earlier_trainer_left_unsaved_is_nobodys(held: Holdings) -> None:
    held.staged(in_memory(1))
    assert held.drop_unsaved()
    assert not held.drop_unsaved()
    held.staged(Staged(1, 10, 0, 100, 50))
    held.decided(Done(1, checkpoint="c"))
    assert not held.drop_unsaved()
    assert held.any_kept
