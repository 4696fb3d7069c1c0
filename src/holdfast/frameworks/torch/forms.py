"""What the captures of modules and optimizers depend on, told by a few calls per tensor."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from operator import attrgetter
from typing import Any

import torch

from holdfast.frameworks.base import Form
from holdfast.frameworks.torch import tensors

HELD_BYTES = 64 * 1024
"""Memory of at most this size is held from one save to the next."""
_TOLD: tuple[Callable[[torch.Tensor], Any], ...] = (
    id,
    attrgetter("dtype", "shape", "device"),
    torch.Tensor.data_ptr,
    torch.Tensor.stride,
    torch.Tensor.is_conj,
    torch.Tensor.is_neg,
)


def form(facts: Sequence[Any], live: Sequence[torch.Tensor]) -> Form | None:
    """The form of an object that holds these tensors; None if one of them is not an ordinary one."""
    if not set(map(type, live)) <= tensors.ORDINARY:
        return None
    try:
        told = [list(map(tell, live)) for tell in _TOLD]
    except RuntimeError:  # one without strides or memory: sparse, nested, on a device of its own kind
        return None
    return Form([*facts, *told], list(live), tensors.source, _is_steady)


def _is_steady(tensor: torch.Tensor) -> bool:
    return tensors.is_plain_memory(tensor) and tensor.untyped_storage().nbytes() <= HELD_BYTES
