"""What a memory of captures holds, and what it does not."""

from __future__ import annotations

import weakref

import torch

from holdfast.frameworks import walk
from holdfast.frameworks.remembering import Memory


def _held(memory: Memory) -> set[str]:
    """Tensors of the model whose memory is held."""
    known = memory["model"]
    assert known is not None
    return known.sources.keys() - {name for name, _ in known.anew}


def test_a_large_tensor_that_is_gone_is_not_kept_alive() -> None:
    model, memory = torch.nn.Linear(500, 500), Memory()
    walk.capture({"model": model}, memory)
    weight = weakref.ref(model.weight)
    del model.weight
    assert weight() is None
    assert _held(memory) == {"model/bias"}


def test_nor_is_a_small_part_of_large_memory() -> None:
    model, memory = torch.nn.Linear(2, 2), Memory()
    model.weight = torch.nn.Parameter(torch.ones(1_000_000)[:2])
    walk.capture({"model": model}, memory)
    assert _held(memory) == {"model/bias"}


def test_what_is_gone_is_forgotten() -> None:
    memory = Memory()
    walk.capture({"model": torch.nn.Linear(2, 2)}, memory)
    walk.capture({"other": torch.nn.Linear(2, 2)}, memory)
    assert memory["model"] is None
    assert memory["other"] is not None


def test_without_a_memory_nothing_is_remembered() -> None:
    model = torch.nn.Linear(2, 2)
    first, second = walk.capture({"model": model}), walk.capture({"model": model})
    assert first.tree == second.tree
    assert first.tensors["model/weight"] is not second.tensors["model/weight"]


def test_a_remembered_object_is_not_captured_again() -> None:
    model, memory = torch.nn.Linear(2, 2), Memory()
    first, second = (walk.capture({"model": model}, memory) for _ in range(2))
    assert first.tensors["model/weight"] is second.tensors["model/weight"]
    assert first.tree["model"].state is second.tree["model"].state
