"""What the captures of layers and optimizers depend on, told by a few calls per tensor."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from operator import attrgetter, methodcaller
from typing import Any

import paddle
from paddle.base.framework import EagerParamBase

from holdfast.frameworks.base import Form
from holdfast.frameworks.paddle import tensors

HELD_BYTES = 64 * 1024
"""Memory of at most this size is held from one save to the next."""
_ORDINARY = {paddle.Tensor, EagerParamBase}
_TOLD: tuple[Callable[[Any], Any], ...] = (
    id,
    attrgetter("dtype", "shape", "strides"),
    methodcaller("data_ptr"),
)


def form(facts: Sequence[Any], live: Sequence[Any]) -> Form | None:
    """The form of an object that holds these tensors; None if one is not dense, on the host and filled."""
    if not set(map(type, live)) <= _ORDINARY or not all(map(methodcaller("is_dense"), live)):
        return None
    if any(not place.is_cpu_place() for place in set(map(attrgetter("place"), live))):
        return None
    try:
        told = [list(map(tell, live)) for tell in _TOLD]
    except RuntimeError:  # one that no kernel has filled yet
        return None
    return Form([*facts, *told], list(live), tensors.source, _is_steady)


def _is_steady(tensor: Any) -> bool:
    return bool(tensor.is_contiguous() and tensor._holder_size() <= HELD_BYTES)
