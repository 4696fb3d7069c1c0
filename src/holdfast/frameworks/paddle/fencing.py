"""Which tensors nothing but an optimizer's step changes: they may be copied while training goes on."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from functools import partial
from typing import Any

import paddle

from holdfast.frameworks.paddle import tensors
from holdfast.frameworks.paddle.parameters import is_optimizer, option_groups

WORTH_BYTES = 64 * 1024
"""A smaller tensor is copied faster than it is looked up."""


def changed_by_steps_only(values: Iterable[object]) -> dict[tuple[int, int], Callable[[], int]]:
    """Large tensors that only ``step()`` of Paddle's own optimizers changes, on the host and dense.

    Left out is what a forward pass changes: the weights of an embedding with ``max_norm``.

    Returns
    -------
    dict[int, callable]
        Address and bytes of the memory → a function that gives the tensor's in-place version, which most
        changes by others move.
    """
    values = list(values)
    renormed = {id(weight) for value in values for weight in _renormed(value)}
    found: dict[tuple[int, int], Callable[[], int]] = {}
    for value in values:
        if is_optimizer(value) and type(value).__module__.startswith("paddle.optimizer"):
            for tensor in _tensors(value):
                if id(tensor) not in renormed and _is_worth_it(tensor):
                    size_bytes = tensors.spec_of(tensor).size_bytes
                    found[tensor.data_ptr(), size_bytes] = partial(_version, tensor)
    return found


def _tensors(optimizer: Any) -> Iterator[Any]:
    groups = [group["params"] for group in option_groups(optimizer)]
    yield from [t for group in groups for t in group] if groups else list(optimizer._param_groups or [])
    for by_name in optimizer._accumulators.values():
        yield from by_name.values()
    yield from getattr(optimizer, "_master_weights", {}).values()


def _is_worth_it(tensor: Any) -> bool:
    if not (isinstance(tensor, paddle.Tensor) and tensor.is_dense() and tensor._is_initialized()):
        return False
    if tensor._holder_size() < WORTH_BYTES:  # quick, and true of most
        return False
    large = tensors.spec_of(tensor).size_bytes >= WORTH_BYTES
    return large and tensors.on_host(tensor) and tensor.is_contiguous()


def _renormed(value: object) -> Iterator[Any]:
    if isinstance(value, paddle.nn.Layer):
        for layer in value.sublayers(include_self=True):
            if getattr(layer, "_max_norm", None) is not None:
                yield from layer.parameters(include_sublayers=False)


def _version(tensor: Any) -> int:
    version: int = tensor.inplace_version
    return version
