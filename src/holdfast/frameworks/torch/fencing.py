"""Which tensors nothing but an optimizer's step changes: they may be copied while training goes on."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from functools import partial
from typing import Any

import torch
from torch.optim import Optimizer

from holdfast.frameworks.torch.names import submodules

WORTH_BYTES = 64 * 1024
"""A smaller tensor is copied faster than it is looked up."""


def changed_by_steps_only(values: Iterable[object]) -> dict[tuple[int, int], Callable[[], int]]:
    """Large dense tensors that only ``step()`` of torch's own optimizers changes.

    Left out is what a forward pass changes: the weights of an embedding with ``max_norm``; and what an
    optimizer changes that may be a part of a CUDA graph, whose replay calls no ``step()``.

    Returns
    -------
    dict[int, callable]
        Address and bytes of the memory → a function that gives the tensor's version, which most changes
        by others move.
    """
    values = list(values)
    renormed = {id(weight) for value in values for weight in _renormed(value)}
    found: dict[tuple[int, int], Callable[[], int]] = {}
    for value in values:
        if isinstance(value, Optimizer) and type(value).__module__.startswith("torch.optim"):
            for tensor in _tensors(value):
                if _is_worth_it(tensor) and id(tensor) not in renormed:
                    found[tensor.data_ptr(), tensor.nbytes] = partial(_version, tensor)
    return found


def _tensors(optimizer: Optimizer) -> Iterator[torch.Tensor]:
    if any(group.get("capturable") for group in optimizer.param_groups):
        return
    for group in optimizer.param_groups:
        yield from group["params"]
    for state in optimizer.state.values():
        if isinstance(state, dict):
            yield from (value for value in state.values() if isinstance(value, torch.Tensor))


def _is_worth_it(tensor: torch.Tensor) -> bool:
    dense = (tensor.is_cpu or tensor.is_cuda) and tensor.layout is torch.strided
    return dense and tensor.nbytes >= WORTH_BYTES and not tensor.is_inference()


def _renormed(value: object) -> Iterator[Any]:
    if isinstance(value, torch.nn.Module):
        for _, module in submodules(value):
            # not getattr of the module, which is slow to say that there is none
            if vars(module).get("max_norm", getattr(type(module), "max_norm", None)) is not None:
                yield from module.parameters(recurse=False)


def _version(tensor: Any) -> int:
    version: int = tensor._version
    return version
