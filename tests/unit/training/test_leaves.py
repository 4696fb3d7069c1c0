"""What a live state holds."""

from __future__ import annotations

from typing import Any

from holdfast.training.leaves import leaves


def test_leaves_come_in_order() -> None:
    assert leaves({"a": [1, (2, {"b": 3})], "c": 4}) == [1, 2, 3, 4]


def test_a_container_met_twice_is_entered_twice_but_not_inside_itself() -> None:
    shared = [1]
    state: dict[str, Any] = {"one": shared, "two": shared}
    state["all"] = state
    assert leaves(state) == [1, 1]
