"""Learning-rate schedulers: the rates after a restore are those of a run never interrupted."""

from __future__ import annotations

from typing import Any

import paddle
import pytest
from paddle.optimizer import lr

from holdfast.errors import MismatchError
from holdfast.frameworks import walk

pytestmark = pytest.mark.paddle

SCHEDULERS: dict[str, Any] = {
    "noam": lambda: lr.NoamDecay(64, 3),
    "piecewise": lambda: lr.PiecewiseDecay([3, 6], [0.1, 0.2, 0.3]),
    "natural-exp": lambda: lr.NaturalExpDecay(0.1, 0.1),
    "inverse-time": lambda: lr.InverseTimeDecay(0.1, 0.1),
    "polynomial": lambda: lr.PolynomialDecay(0.1, 5, cycle=True),
    "exponential": lambda: lr.ExponentialDecay(0.1, 0.9),
    "multi-step": lambda: lr.MultiStepDecay(0.1, [2, 5]),
    "step": lambda: lr.StepDecay(0.1, 3),
    "lambda": lambda: lr.LambdaDecay(0.1, lambda e: 0.9**e),
    "multiplicative": lambda: lr.MultiplicativeDecay(0.1, lambda e: 0.9),
    "cosine": lambda: lr.CosineAnnealingDecay(0.1, 5),
    "warm-restarts": lambda: lr.CosineAnnealingWarmRestarts(0.1, 3, 2),
    "one-cycle": lambda: lr.OneCycleLR(0.1, 20),
    "cyclic": lambda: lr.CyclicLR(0.1, 0.3, 3, mode="exp_range", exp_gamma=0.9),
    "linear": lambda: lr.LinearLR(0.1, 7),
    "plateau": lambda: lr.ReduceOnPlateau(0.1, patience=1, cooldown=1),
    "warmup": lambda: lr.LinearWarmup(lr.CosineAnnealingDecay(0.1, 5), 3, 0.0, 0.1),
    "warmup-warmup": lambda: lr.LinearWarmup(lr.LinearWarmup(0.2, 6, 0.0, 0.1), 3, 0.0, 0.1),
    "warmup-plateau": lambda: lr.LinearWarmup(lr.ReduceOnPlateau(0.1, patience=1), 3, 0.0, 0.1),
}


def go(scheduler: Any, steps: int) -> list[float]:
    rates = []
    for _ in range(steps):
        if isinstance(scheduler, lr.ReduceOnPlateau):
            scheduler.step(paddle.to_tensor(1.0))
        else:
            scheduler.step()
        if isinstance(inner := getattr(scheduler, "learning_rate", None), lr.ReduceOnPlateau):
            inner.step(2.0)
        rates.append(scheduler())
    return rates


def steps_of(kind: str) -> int:
    return 3 if kind == "warmup-plateau" else 9  # after its warm-up it cannot step a plateau


@pytest.mark.parametrize("kind", SCHEDULERS)
@pytest.mark.parametrize("at", [0, 1, 2])
def test_rates_go_on(kind, at, save):
    scheduler = SCHEDULERS[kind]()
    go(scheduler, at)
    saved = save({"s": scheduler})
    expected = go(scheduler, steps_of(kind) - at)
    for earlier in (0, 2):
        again = SCHEDULERS[kind]()
        go(again, earlier)
        saved.into({"s": again})
        assert go(again, steps_of(kind) - at) == expected


@pytest.mark.parametrize("kind", SCHEDULERS)
def test_given_values_do_not_move(kind):
    scheduler = SCHEDULERS[kind]()
    before = walk.given({"s": scheduler})
    go(scheduler, steps_of(kind))
    assert walk.given({"s": scheduler}) == before
    assert before


def test_hyperparameters_come_from_the_checkpoint_until_the_script_insists(save):
    def make(t_max: int, warmup: int) -> dict[str, Any]:
        return {"s": lr.LinearWarmup(lr.CosineAnnealingDecay(0.1, t_max), warmup, 0.0, 0.1)}

    old, new = make(5, 2), make(50, 4)
    go(old["s"], 4)
    want = walk.given(new)
    assert want["s.learning_rate.T_max"] == 50
    assert want["s.warmup_steps"] == 4
    save(old).into(new)
    assert walk.given(new) == walk.given(old)
    assert new["s"].last_epoch == 4
    walk.apply_given(new, {name: want[name] for name in ("s.learning_rate.T_max", "s.warmup_steps")})
    assert walk.given(new) == want
    assert new["s"].last_epoch == 4


def test_code_stays_the_scripts(save):
    saved = save({"s": lr.LambdaDecay(0.1, lambda e: 0.9**e)})
    again = lr.LambdaDecay(0.1, lambda e: 0.5**e)
    saved.into({"s": again})
    again.step()
    assert again() == 0.05


def test_another_kind_of_scheduler_is_a_mismatch(save):
    saved = save({"s": lr.StepDecay(0.1, 3)})
    for other in (lr.ExponentialDecay(0.1, 0.9), paddle.nn.Linear(1, 1)):
        with pytest.raises(MismatchError):
            saved.into({"s": other})
    nested = save({"s": lr.LinearWarmup(lr.StepDecay(0.1, 3), 3, 0.0, 0.1)})
    with pytest.raises(MismatchError):
        nested.into({"s": lr.LinearWarmup(0.1, 3, 0.0, 0.1)})
