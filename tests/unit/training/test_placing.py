"""The layout of a slot is worked out anew when names, order or specs differ."""

from __future__ import annotations

import sys

import msgspec
import pytest

from checkpoints import BytesTensor
from holdfast.errors import StorageError
from holdfast.node.arena import LEFT_OUT, Slot
from holdfast.training.placing import Placing

ALL: frozenset[str] = frozenset()


def test_the_same_tensors_have_the_same_layout() -> None:
    placing = Placing()
    first = placing.layout({"a": BytesTensor(3), "b": BytesTensor(100_000)}, ALL)
    assert placing.layout({"a": BytesTensor(3), "b": BytesTensor(100_000)}, ALL) is first
    assert msgspec.msgpack.decode(first.encoded) == msgspec.msgpack.decode(
        msgspec.msgpack.encode(first.places)
    )


def test_other_ones_have_another() -> None:
    placing = Placing()
    first = placing.layout({"a": BytesTensor(3), "b": BytesTensor(4)}, ALL)
    assert [place.offset for place in first.places.values()] == [0, 3]
    longer = placing.layout({"a": BytesTensor(5), "b": BytesTensor(4)}, ALL)
    assert [place.offset for place in longer.places.values()] == [0, 5]
    turned = placing.layout({"b": BytesTensor(4), "a": BytesTensor(5)}, ALL)
    assert [(name, place.offset) for name, place in turned.places.items()] == [("b", 0), ("a", 4)]
    assert list(placing.layout({"b": BytesTensor(4)}, ALL).places) == ["b"]


@pytest.mark.skipif(sys.platform != "linux", reason="memory shared without a name is Linux's")
def test_what_lies_in_a_slot_is_read_from_there() -> None:
    layout = Placing().layout({"a": BytesTensor(3), "b": BytesTensor(4)}, ALL)
    slot = Slot.create(4096)
    slot.memory[:7] = memoryview(b"abcdefg")
    copies = layout.sources(slot)
    assert {name: copies[name].read().tobytes() for name in copies} == {"a": b"abc", "b": b"defg"}
    assert len(copies) == 2
    slot.close()


@pytest.mark.skipif(sys.platform != "linux", reason="memory shared without a name is Linux's")
def test_what_is_left_out_has_no_room_and_says_so_when_it_is_read() -> None:
    placing = Placing()
    sources = {"a": BytesTensor(3), "base": BytesTensor(100_000), "b": BytesTensor(4)}
    whole = placing.layout(sources, ALL)
    layout = placing.layout(sources, frozenset({"base"}))
    assert list(layout.places) == list(whole.places), "a table has the same order, whatever is left out"
    assert [place.offset for place in layout.places.values()] == [0, LEFT_OUT, 3]
    assert layout.size_bytes == 7
    slot = Slot.create(4096)
    with pytest.raises(StorageError, match="the same in the checkpoint before"):
        layout.sources(slot)["base"].read()
    slot.close()
