"""Schedulers: every later learning rate equals that of a run never interrupted."""

from __future__ import annotations

import math
from collections import Counter
from typing import Any

import pytest
import torch
from torch.optim import lr_scheduler as lrs
from torch.optim.swa_utils import SWALR

from holdfast.errors import MismatchError
from holdfast.frameworks import walk


class Warmup:
    """A callable object with state of its own."""

    def __init__(self, steps: int) -> None:
        self.steps = steps
        self.calls = 0

    def __call__(self, step: int) -> float:
        self.calls += 1
        return min(1.0, (step + 1) / self.steps) + self.calls * 1e-3


class Halving(lrs.LRScheduler):
    def get_lr(self) -> list[Any]:
        return [group["lr"] * (0.5 if self.last_epoch % 2 else 1.0) for group in self.optimizer.param_groups]


SCHEDULERS: dict[str, Any] = {
    "lambda": lambda o: lrs.LambdaLR(o, lambda e: 0.9**e),
    "lambda-object": lambda o: lrs.LambdaLR(o, Warmup(6)),
    "multiplicative": lambda o: lrs.MultiplicativeLR(o, lambda e: 0.9),
    "step": lambda o: lrs.StepLR(o, 3, gamma=0.5),
    "multi-step": lambda o: lrs.MultiStepLR(o, [2, 5, 5, 9]),
    "constant": lambda o: lrs.ConstantLR(o, 0.5, 6),
    "linear": lambda o: lrs.LinearLR(o, 0.1, 1.0, 8),
    "exponential": lambda o: lrs.ExponentialLR(o, 0.9),
    "polynomial": lambda o: lrs.PolynomialLR(o, 10, 2.0),
    "cosine": lambda o: lrs.CosineAnnealingLR(o, 10, 0.001),
    "restarts": lambda o: lrs.CosineAnnealingWarmRestarts(o, 3, 2),
    "one-cycle": lambda o: lrs.OneCycleLR(o, 0.5, total_steps=20),
    "one-cycle-three": lambda o: lrs.OneCycleLR(o, 0.5, 20, three_phase=True, anneal_strategy="linear"),
    "cyclic": lambda o: lrs.CyclicLR(o, 0.01, 0.1, 3, mode="triangular2"),
    "cyclic-exp": lambda o: lrs.CyclicLR(o, 0.01, 0.1, 3, mode="exp_range", gamma=0.9),
    "cyclic-object": lambda o: lrs.CyclicLR(o, 0.01, 0.1, 3, scale_fn=Warmup(4)),
    "swa": lambda o: SWALR(o, swa_lr=0.05, anneal_epochs=6),
    "plateau": lambda o: lrs.ReduceLROnPlateau(o, patience=1, cooldown=1, factor=0.5),
    "custom": Halving,
    "sequential": lambda o: lrs.SequentialLR(
        o, [lrs.LinearLR(o, 0.1, 1.0, 4), lrs.CosineAnnealingLR(o, 8)], milestones=[4]
    ),
    "chained": lambda o: lrs.ChainedScheduler([lrs.ConstantLR(o, 0.5, 6), lrs.ExponentialLR(o, 0.9)]),
    "nested": lambda o: lrs.ChainedScheduler(
        [
            lrs.SequentialLR(o, [lrs.ConstantLR(o, 0.1, 3), lrs.LambdaLR(o, Warmup(3))], milestones=[4]),
            lrs.ExponentialLR(o, 0.9),
        ]
    ),
}


def _build(name: str, lr: Any = 0.1) -> tuple[torch.optim.Optimizer, Any]:
    parameters = [torch.nn.Parameter(torch.ones(3)), torch.nn.Parameter(torch.ones(2))]
    lr = lr.clone() if isinstance(lr, torch.Tensor) else lr
    groups = [{"params": [parameters[0]]}, {"params": [parameters[1]], "lr": lr * 2}]
    optimizer = torch.optim.SGD(groups, lr=lr, momentum=0.9)
    return optimizer, SCHEDULERS[name](optimizer)


def _train(optimizer: torch.optim.Optimizer, scheduler: Any, first: int, last: int) -> list[list[float]]:
    rates = []
    for step in range(first, last):
        for group in optimizer.param_groups:
            for parameter in group["params"]:
                parameter.grad = torch.full_like(parameter, math.sin(step + 1))
        optimizer.step()
        if isinstance(scheduler, lrs.ReduceLROnPlateau):
            scheduler.step(abs(math.sin(step)) + step % 3)
        else:
            scheduler.step()
        rates.append([float(group["lr"]) for group in optimizer.param_groups] + scheduler.get_last_lr())
    return rates


@pytest.mark.parametrize("order", ["optimizer-first", "scheduler-first"])
@pytest.mark.parametrize("rate", [0.1, torch.tensor(0.1)], ids=["float", "tensor"])
@pytest.mark.parametrize("name", SCHEDULERS)
@pytest.mark.parametrize("kill_at", [0, 3, 5])
def test_rates_after_restore_are_exact(name, rate, order, kill_at, save, differences):
    def state(optimizer: Any, scheduler: Any) -> dict[str, Any]:
        entries = {"optimizer": optimizer, "scheduler": scheduler}
        return entries if order == "optimizer-first" else dict(reversed(entries.items()))

    optimizer, scheduler = _build(name, rate)
    _train(optimizer, scheduler, 0, kill_at)
    saved = save(state(optimizer, scheduler))
    expected = _train(optimizer, scheduler, kill_at, 12)

    fresh = _build(name, rate)
    for _ in range(2):  # into a new process, then back within it
        saved.into(state(*fresh))
        assert differences(_train(*fresh, kill_at, 12), expected) == []
        assert differences(optimizer.state_dict(), fresh[0].state_dict()) == []
        assert differences(_plain(scheduler), _plain(fresh[1])) == []


def _plain(scheduler: Any) -> dict[str, Any]:
    state = scheduler.state_dict()
    state.pop("_scale_fn_ref", None)
    return {key: state[key] for key in sorted(state)}


def test_types_of_attributes_are_kept(save):
    state = dict(zip(("optimizer", "scheduler"), _build("multi-step"), strict=True))
    saved = save(state)
    fresh = dict(zip(("optimizer", "scheduler"), _build("multi-step"), strict=True))
    saved.into(fresh)
    milestones = fresh["scheduler"].milestones
    assert isinstance(milestones, Counter)
    assert milestones == {2: 1, 5: 2, 9: 1}


def test_another_scheduler_is_refused(save):
    saved = save({"scheduler": _build("step")[1]})
    with pytest.raises(MismatchError, match="checkpoint: StepLR, live: ExponentialLR"):
        saved.into({"scheduler": _build("exponential")[1]})
    nested = save({"scheduler": _build("nested")[1]})
    with pytest.raises(MismatchError, match=r"_schedulers\[0\]"):
        nested.into({"scheduler": _build("chained")[1]})


def test_given_reaches_into_nested_schedulers():
    _, scheduler = _build("sequential")
    state = {"scheduler": scheduler}
    given = walk.given(state)
    assert given["scheduler._schedulers[1].T_max"] == 8
    assert given["scheduler._milestones"] == [4]
    assert not [name for name in given if "last_epoch" in name or "_last_lr" in name]
    walk.apply_given(state, {"scheduler._schedulers[1].T_max": 99})
    assert scheduler._schedulers[1].T_max == 99


def test_given_is_the_same_at_each_launch():
    for name in SCHEDULERS:
        first, second = _build(name), _build(name)
        assert walk.given({"o": first[0], "s": first[1]}) == walk.given({"o": second[0], "s": second[1]})


def test_an_applied_gamma_binds_the_scale_function():
    _, scheduler = _build("cyclic-exp")
    walk.apply_given({"s": scheduler}, {"s.gamma": 0.5})
    assert scheduler.scale_fn(2) == 0.25


def test_a_restore_before_the_first_scheduler_step_does_not_warn(save):
    optimizer, scheduler = _build("step")
    optimizer.step()
    saved = save({"optimizer": optimizer, "scheduler": scheduler})
    fresh = _build("step")
    saved.into({"optimizer": fresh[0], "scheduler": fresh[1]})
    fresh[1].step()  # a warning would fail the test
