"""Gradients at a safe point: their values are spent, but whether there are any still matters.

With ``zero_grad(set_to_none=False)`` a parameter that a step does not use has a gradient of
zeros, and the optimizer decays and moves it; without a gradient it is skipped. And a restore in
the same process must not leave the gradients of an abandoned step behind.
"""

from __future__ import annotations

import torch
from torch.optim import Optimizer

_MARK = "_holdfast_version"


def is_held(parameter: torch.Tensor) -> bool:
    """Whether there is a dense gradient."""
    return parameter.grad is not None and parameter.grad.layout is torch.strided


def is_accumulated(parameter: torch.Tensor) -> bool:
    """Whether there is a gradient that no step has used: nor zeros put there by a restore."""
    gradient = parameter.grad
    return gradient is not None and getattr(gradient, _MARK, None) != gradient._version


def spend(optimizer: Optimizer) -> None:
    """Note that a step has used the gradients as they are now."""
    for group in optimizer.param_groups:
        for parameter in group["params"]:
            if (gradient := parameter.grad) is not None:
                setattr(gradient, _MARK, gradient._version)


def reset(parameter: torch.Tensor, *, held: bool) -> None:
    """Zeros where the checkpoint had a gradient, else none."""
    if not held:
        parameter.grad = None
        return
    if not is_held(parameter):
        parameter.grad = torch.zeros_like(parameter)
    gradient = parameter.grad
    assert gradient is not None
    with torch.no_grad():
        gradient.detach().zero_()
    setattr(gradient, _MARK, gradient._version)
