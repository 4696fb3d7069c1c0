"""A tree that is not what an adapter writes: refused in words, whatever is wrong with it."""

from __future__ import annotations

import copy
import random
from typing import Any

import msgspec
import pytest
import torch
from torch.optim import lr_scheduler as lrs

from holdfast.domain import tree
from holdfast.errors import DamagedError, HoldfastError, MismatchError

WRONG = [
    None,
    0,
    -1,
    "x",
    b"",
    1.5,
    ["list", []],
    ["dict", []],
    ["tensor", "nowhere", "torch", "cpu"],
    ["tensor", "module/0.weight", "torch", "cpu"],
    ["component", "torch.module", ["dict", []]],
]


def _state() -> dict[str, Any]:
    module = torch.nn.Sequential(torch.nn.Linear(2, 2), torch.nn.BatchNorm1d(2))
    optimizer = torch.optim.Adam(module.parameters())
    for parameter in module.parameters():
        parameter.grad = torch.ones_like(parameter)
    optimizer.step()
    phases = [lrs.LinearLR(optimizer), lrs.CosineAnnealingLR(optimizer, 5)]
    return {
        "module": module,
        "optimizer": optimizer,
        "scheduler": lrs.SequentialLR(optimizer, phases, [2]),
        "generator": torch.Generator(),
        "sparse": torch.eye(2).to_sparse(),
        "scaler": torch.amp.GradScaler("cpu"),
    }


def _places(node: Any, path: tuple[int, ...] = ()) -> list[tuple[int, ...]]:
    if not isinstance(node, list):
        return []
    return [p for i, item in enumerate(node) for p in [(*path, i), *_places(item, (*path, i))]]


@pytest.mark.parametrize("seed", range(4))
def test_a_tree_changed_anywhere_never_ends_in_a_traceback(seed, save):
    saved = save(_state())
    whole = msgspec.msgpack.decode(saved.node)
    places = _places(whole)
    chance = random.Random(seed)
    live, refused = _state(), 0
    for _ in range(150):
        node = copy.deepcopy(whole)
        *way, last = chance.choice(places)
        part = node
        for index in way:
            part = part[index]
        part[last] = chance.choice(WRONG)
        saved.node = msgspec.msgpack.encode(node)
        try:
            saved.into(live)
        except HoldfastError:
            refused += 1
            live = _state()
    assert refused > 50


def test_what_is_unreadable_is_reported_with_all_other_differences(save):
    state = {"module": torch.nn.Linear(1, 1), "generator": torch.Generator()}
    saved = save(state)
    node = tree.encode({"module": tree.Component("torch.module", {}), "generator": 1})
    saved.node = msgspec.msgpack.encode(node)
    with pytest.raises(MismatchError) as caught:
        saved.into(state)
    assert "torch.module that cannot be read: KeyError" in str(caught.value)
    assert len(caught.value.mismatched) == 2


def test_indices_outside_a_sparse_tensor_are_damage(save):
    saved = save({"x": torch.eye(2).to_sparse()})
    saved.bytes["x/indices"] = torch.tensor([[0, 9], [0, 1]]).numpy().tobytes()
    with pytest.raises(DamagedError, match="sparse tensor x"):
        saved.into({"x": torch.zeros(2, 2).to_sparse()})
