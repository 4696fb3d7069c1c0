"""The first difference between two trainings, and what it tells."""

from __future__ import annotations

from typing import Any

import msgspec
import pytest

from holdfast.domain import tree
from holdfast.drill import likely
from holdfast.drill.comparing import Difference, Made, compare, first_difference, varying


def made(
    step: int = 1, *, weights: bytes = b"w", resumed: int | None = None, loss: float = 1.0, **training: Any
) -> Made:
    def raw(value: Any) -> msgspec.Raw:
        return msgspec.Raw(msgspec.msgpack.encode(tree.encode(value)))

    state = raw({"seconds": training.pop("seconds", 0.0)})
    return Made("main", step, resumed, {"weights": weights}, state, raw(training), {"loss": loss})


def found(one: Made, other: Made) -> Difference:
    difference = compare(one, other)
    assert difference is not None
    return difference


def test_equal_is_nothing() -> None:
    assert compare(made(rng={"numpy": [1]}), made(rng={"numpy": [1]}, resumed=0)) is None


def test_everything_that_differs_is_named_by_its_part() -> None:
    one = made(rng={"numpy": {"key": [1, 2]}, "torch": 1}, position={"delivered": 3})
    other = made(
        weights=b"x",
        loss=2.0,
        seconds=1.0,
        rng={"numpy": {"key": [3, 4]}, "torch": 1},
        position={"delivered": 4},
    )
    difference = found(one, other)
    assert difference.tensors == ["weights"]
    assert difference.values == ["seconds"]
    assert difference.rng == ["rng/numpy"]
    assert difference.position == ["position/delivered"]
    assert difference.metrics == ["loss"]
    assert difference.first == "weights"


def test_the_sign_of_a_zero_counts_and_nan_equals_itself() -> None:
    assert compare(made(seconds=float("nan")), made(seconds=float("nan"))) is None
    assert found(made(seconds=0.0), made(seconds=-0.0)).values == ["a value"]


def test_the_earliest_step_is_told_also_of_what_was_made_twice() -> None:
    whole = {("main", step): made(step) for step in range(1, 9)}
    others = [made(7, weights=b"x"), made(3), made(5, weights=b"x"), made(5), made(99)]
    difference = first_difference(whole, others)
    assert difference is not None
    assert difference.step == 5


def test_what_varies_by_itself_can_be_ignored() -> None:
    whole = {("main", 1): made(rng={"numpy": 1, "torch": 1}, seconds=1.0)}
    again = {("main", 1): made(rng={"numpy": 2, "torch": 1}, seconds=2.0)}
    ignored = varying(whole, again)
    assert ignored == {"rng/numpy", "seconds"}
    assert first_difference(whole, again.values(), ignored) is None


@pytest.mark.parametrize(
    ("difference", "cause"),
    [
        ({"values": ["seconds"]}, likely.VALUES),
        ({"tensors": ["w"], "step": 9}, likely.LATER),
        ({"tensors": ["w"], "position": ["position/seed"]}, likely.POSITION),
        ({"tensors": ["w"], "rng": ["rng/torch"], "metrics": ["loss"]}, likely.RNG),
        ({"tensors": ["w"], "metrics": ["loss"], "told_loss": True}, likely.DATA_OR_RNG),
        ({"tensors": ["w"], "told_loss": True}, likely.UPDATE),
        ({"tensors": ["w"]}, likely.FORGOTTEN),
    ],
)
def test_what_is_likely(difference: dict[str, Any], cause: str) -> None:
    seen = Difference(**({"run": "main", "step": 5, "resumed": 4} | difference))
    assert likely.likely(seen, None, 1) == cause


def test_a_script_that_differs_from_itself() -> None:
    seen = Difference(run="main", step=5, resumed=4, tensors=["w"])
    assert likely.likely(seen, Difference(run="main", step=1, tensors=["w"]), 1) == likely.NOT_SEEDED
    assert likely.likely(seen, Difference(run="main", step=2, tensors=["w"]), 1) == likely.NOT_DETERMINISTIC
