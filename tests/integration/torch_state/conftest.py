"""A round trip without storage: bytes of a capture, filled into another live state."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import msgspec
import pytest
import torch

from holdfast.domain import tree
from holdfast.frameworks.walk import LoadPlan, capture, plan


class Saved:
    """What a repository would hold of one capture."""

    def __init__(self, state: dict[str, Any]) -> None:
        taken = capture(state)
        self.node = msgspec.msgpack.encode(tree.encode(taken.tree))
        self.specs = {name: source.spec for name, source in taken.tensors.items()}
        self.bytes = {name: source.read().tobytes() for name, source in taken.tensors.items()}

    def plan(self, state: dict[str, Any], **options: Any) -> LoadPlan:
        return plan(state, tree.decode(msgspec.msgpack.decode(self.node), state), self.specs, **options)

    def into(self, state: dict[str, Any], *, strict: bool = True) -> list[str]:
        load = self.plan(state)
        lines = load.raise_differences("The checkpoint", strict=strict)
        for name, target in load.reads:
            assert target.spec == self.specs[name]
            target.buffer()[:] = memoryview(self.bytes[name])
            target.commit()
        load.finish()
        return lines


@pytest.fixture
def save() -> Callable[[dict[str, Any]], Saved]:
    return Saved


def differences(first: Any, second: Any, path: str = "state") -> list[str]:
    """Where two values differ in type, dtype, layout, device or bits."""
    if type(first) is not type(second):
        return [f"{path}: {type(first).__name__} and {type(second).__name__}"]
    if isinstance(first, torch.Tensor):
        return [] if _equal_bits(first, second) else [f"{path}: {first} and {second}"]
    if isinstance(first, dict):
        if list(first) != list(second):
            return [f"{path}: keys {list(first)} and {list(second)}"]
        return [line for key in first for line in differences(first[key], second[key], f"{path}.{key}")]
    if isinstance(first, list | tuple):
        if len(first) != len(second):
            return [f"{path}: {len(first)} and {len(second)} items"]
        pairs = enumerate(zip(first, second, strict=True))
        return [line for i, (a, b) in pairs for line in differences(a, b, f"{path}[{i}]")]
    same = first == second or (first is not None and repr(first) == repr(second) == "nan")
    return [] if same or callable(first) else [f"{path}: {first!r} and {second!r}"]


def _equal_bits(first: torch.Tensor, second: torch.Tensor) -> bool:
    if (first.dtype, first.shape, first.layout) != (second.dtype, second.shape, second.layout):
        return False
    if first.requires_grad != second.requires_grad:
        return False
    if first.layout is not torch.strided:
        return str(first) == str(second) and bool(torch.equal(first.to_dense(), second.to_dense()))
    whole = [t.detach().resolve_conj().resolve_neg().contiguous().reshape(-1) for t in (first, second)]
    return bool(torch.equal(whole[0].view(torch.uint8), whole[1].view(torch.uint8)))


@pytest.fixture(name="differences")
def _differences() -> Callable[[Any, Any], list[str]]:
    return differences


@pytest.fixture(autouse=True)
def _one_thread() -> Iterator[None]:
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)
