from __future__ import annotations

from collections import OrderedDict, namedtuple
from typing import Any

import numpy as np
import pytest
import torch

from holdfast.domain.tensors import TensorRef
from holdfast.domain.tree import Component
from holdfast.errors import MismatchError, UnsupportedError
from holdfast.frameworks import walk

Pair = namedtuple("Pair", "left right")


def _fill(saved: dict[str, Any], live: dict[str, Any], *, strict: bool = True, **options: Any) -> list[str]:
    taken = walk.capture(saved)
    specs = {name: source.spec for name, source in taken.tensors.items()}
    load = walk.plan(live, taken.tree, specs, **options)
    lines = load.raise_differences("It", strict=strict)
    for name, target in load.reads:
        target.buffer()[:] = taken.tensors[name].read()
        target.commit()
    load.finish()
    return lines


def _ones() -> torch.Tensor:
    return torch.ones(2)


def test_capture_refers_to_tensors_by_path_and_copies_nothing():
    weight = _ones()
    taken = walk.capture({"a": {"b": [weight, 1]}, "c": (None, "x"), "m": torch.nn.Linear(1, 1)})
    assert taken.tree["a"] == {"b": [TensorRef("a/b/0", "torch", "cpu"), 1]}
    assert taken.tree["c"] == (None, "x")
    assert isinstance(taken.tree["m"], Component)
    assert taken.tensors["a/b/0"].read().__array_interface__["data"][0] == weight.data_ptr()


def test_paths_that_look_alike_get_names_of_their_own():
    taken = walk.capture({"a": {1: _ones(), "1": _ones()}})
    assert sorted(taken.tensors) == ["a/1", "a/1~2"]


def test_containers_are_refilled_and_plain_values_replaced():
    inner: dict[str, Any] = {"old": 1, "n": 0}
    items = [1, 2, 3]
    live = {"inner": inner, "items": items, "n": 1, "pair": Pair(0, 0), "weight": torch.zeros(2)}
    weight = live["weight"]
    _fill({"inner": {"n": 5}, "items": [9], "n": 2, "pair": Pair(1, [2]), "weight": _ones()}, live)
    assert live["inner"] is inner
    assert inner == {"n": 5}
    assert live["items"] is items
    assert items == [9]
    assert live["n"] == 2
    assert live["pair"] == Pair(1, [2])
    assert live["weight"] is weight
    assert weight.tolist() == [1.0, 1.0]


def test_a_tensor_where_none_was_is_made():
    live: dict[str, Any] = {"best": None, "history": []}
    _fill({"best": _ones(), "history": [_ones(), {"x": _ones()}]}, live)
    assert live["best"].tolist() == [1.0, 1.0]
    assert live["history"][1]["x"].tolist() == [1.0, 1.0]


def test_what_was_empty_at_the_start_may_have_grown():
    live: dict[str, Any] = {
        "returns": np.zeros(0),
        "buffer": {"seen": torch.empty(0, 3)},
        "parts": [np.zeros((0, 2)), torch.zeros(0)],
    }
    saved: dict[str, Any] = {
        "returns": np.arange(3.0),
        "buffer": {"seen": torch.ones(2, 3)},
        "parts": [np.ones((1, 2), np.float32), torch.zeros(0)],
    }
    _fill(saved, live)
    np.testing.assert_array_equal(live["returns"], saved["returns"])
    assert torch.equal(live["buffer"]["seen"], saved["buffer"]["seen"])
    assert live["parts"][0].dtype == np.float32
    assert live["parts"][1].shape == (0,)


@pytest.mark.parametrize("live", [np.zeros(1), torch.zeros(0, requires_grad=True)])
def test_what_holds_values_or_is_trained_does_not_change_its_shape(live):
    with pytest.raises(MismatchError, match="does not match: w"):
        _fill({"w": torch.ones(3)}, {"w": live})


def test_an_empty_buffer_of_a_module_keeps_its_shape():
    module, grown = torch.nn.Module(), torch.nn.Module()
    module.register_buffer("seen", torch.zeros(0))
    grown.register_buffer("seen", torch.ones(2))
    with pytest.raises(MismatchError, match="does not match: m/seen"):
        _fill({"m": grown}, {"m": module})


def test_every_difference_is_listed_before_anything_is_touched():
    saved = {"gone": 1, "deep": {"module": torch.nn.Linear(1, 1), "x": _ones()}, "kind": torch.Generator()}
    live = {
        "new": 1,
        "deep": {"other": torch.Generator(), "x": torch.zeros(3)},
        "kind": torch.nn.Linear(1, 1),
    }
    with pytest.raises(MismatchError) as caught:
        _fill(saved, live)
    assert caught.value.missing == ("deep/other", "new")
    assert caught.value.unexpected == ("gone", "deep/module (torch.module)")
    assert caught.value.mismatched == (
        "deep/x (checkpoint: float32[2], live: float32[3])",
        "kind (checkpoint: torch.generator, live: torch.module)",
    )
    assert live["deep"]["x"].tolist() == [0.0, 0.0, 0.0]


@pytest.mark.parametrize(
    "live", [torch.nn.Linear(1, 1), torch.Generator(), torch.zeros(2)], ids=lambda v: type(v).__name__
)
@pytest.mark.parametrize(
    "saved",
    [1, {"a": 1}, [1], torch.nn.ReLU(), torch.Generator(), torch.ones(2)],
    ids=lambda v: type(v).__name__,
)
def test_an_object_is_never_replaced_by_something_else(saved, live):
    if type(saved) is type(live):
        return
    if isinstance(saved, torch.nn.Module) and isinstance(live, torch.nn.Module):
        return
    state = {"x": live}
    with pytest.raises(MismatchError, match=r"^It does not fit(.|\n)*does not match: x "):
        _fill({"x": saved}, state)
    assert _fill({"x": saved}, state, strict=False)
    assert state["x"] is live


def test_a_load_that_is_not_strict_drops_no_live_object():
    module, generator = torch.nn.Linear(1, 1), torch.Generator()
    live: dict[str, Any] = {"d": {"new": module, "n": 0}, "items": [0, generator]}
    lines = _fill({"d": {"n": 1, "gone": torch.nn.Linear(1, 1)}, "items": [5]}, live, strict=False)
    assert len(lines) == 3
    assert live == {"d": {"n": 1, "new": module}, "items": [5, generator]}


def test_only_restricts_and_refuses_unknown_names():
    live = {"a": 0, "b": 0, "new": 0}
    _fill({"a": 1, "b": 1}, live, only=["a"])
    assert live == {"a": 1, "b": 0, "new": 0}
    with pytest.raises(UnsupportedError, match="has no x; it holds a"):
        _fill({"a": 1}, live, only=["x"])


def test_ordered_dicts_stay_ordered_dicts():
    live = {"d": OrderedDict(a=1)}
    _fill({"d": OrderedDict(b=2)}, live)
    assert type(live["d"]) is OrderedDict
    assert live["d"] == OrderedDict(b=2)


def test_arrays_beside_tensors():
    live = {"array": np.zeros(2), "tensor": torch.zeros(2)}
    _fill({"array": np.ones(2), "tensor": _ones()}, live)
    assert live["array"].tolist() == [1.0, 1.0]
