"""Gradient scalers: enabled on the CPU by hand, since Paddle enables them on devices only."""

from __future__ import annotations

from typing import Any

import paddle
import pytest
from paddle.amp import grad_scaler

from holdfast.errors import MismatchError, UnsupportedError
from holdfast.frameworks import walk

pytestmark = pytest.mark.paddle


@pytest.fixture
def scaler(monkeypatch):
    def make(**options: Any) -> paddle.amp.GradScaler:
        with monkeypatch.context() as patch:
            patch.setattr(grad_scaler, "in_dynamic_mode", lambda: False)  # what looks for a device
            defaults = {"init_loss_scaling": 8.0, "incr_every_n_steps": 2, "decr_every_n_nan_or_inf": 2}
            return paddle.amp.GradScaler(**(defaults | options))

    return make


class Run:
    def __init__(self, scaler: Any) -> None:
        one = paddle.nn.initializer.Constant(1.0)
        self.weight = paddle.create_parameter([2], "float32", default_initializer=one)
        self.optimizer = paddle.optimizer.Adam(0.1, parameters=[self.weight])
        self.state = {"weight": self.weight, "optimizer": self.optimizer, "scaler": scaler}

    def step(self, factor: float) -> Any:
        scaler = self.state["scaler"]
        scaler.scale((self.weight * factor).sum()).backward()
        scaler.step(self.optimizer)
        scaler.update()
        self.optimizer.clear_grad()
        return self.weight.tolist(), vars(scaler).get("_incr_count"), vars(scaler).get("_decr_count")


@pytest.fixture
def fp16(monkeypatch):
    """As under ``auto_cast(dtype="float16")``, without which a scaler disables itself."""
    monkeypatch.setattr(grad_scaler.amp_global_state(), "amp_dtype", "float16")
    # Paddle prints float() of a tensor of shape [1], which NumPy 2.4 refuses
    monkeypatch.setattr(
        grad_scaler, "float", lambda value: getattr(value, "item", lambda: value)(), raising=False
    )


FACTORS = [1.0, 2.0, float("inf"), 3.0, float("nan"), float("inf"), 1.0, 1.0, 1.0, 5.0]


@pytest.mark.parametrize("at", range(7))
def test_scaling_goes_on(at, scaler, fp16, save):
    run = Run(scaler())
    for factor in FACTORS[:at]:
        run.step(factor)
    saved = save(run.state)
    expected = [run.step(factor) for factor in FACTORS[at:]]
    for earlier in (0, 3):
        again = Run(scaler())
        for factor in FACTORS[:earlier]:
            again.step(factor)
        saved.into(again.state)
        assert [again.step(factor) for factor in FACTORS[at:]] == expected
        assert again.state["scaler"].state_dict() == run.state["scaler"].state_dict()


def test_between_unscale_and_update(scaler, fp16, save):
    run, again = Run(scaler()), Run(scaler())
    for one in (run, again):
        one.state["scaler"].scale(one.weight.sum()).backward()
    run.state["scaler"].unscale_(run.optimizer)
    save(run.state).into(again.state)
    with pytest.raises(RuntimeError, match="already been called"):
        again.state["scaler"].unscale_(again.optimizer)
    with pytest.raises(UnsupportedError, match="not in the state"):
        save({"scaler": run.state["scaler"]})


@pytest.mark.filterwarnings("ignore:AmpScaler can only be enabled on:UserWarning")
def test_disabled(scaler, save):
    disabled = paddle.amp.GradScaler(enable=False)
    assert disabled.state_dict() == {}
    saved = save({"s": disabled})
    saved.into({"s": paddle.amp.GradScaler()})  # disabled by Paddle itself on the CPU
    with pytest.raises(MismatchError, match="checkpoint: disabled, live: enabled"):
        saved.into({"s": scaler()})
    with pytest.raises(MismatchError, match="checkpoint: enabled, live: disabled"):
        save({"s": scaler()}).into({"s": disabled})


def test_given(scaler, save):
    old, new = {"s": scaler(incr_ratio=2.0)}, {"s": scaler(incr_ratio=4.0)}
    was, want = walk.given(old), walk.given(new)
    assert {name for name in was if was[name] != want[name]} == {"s.incr_ratio"}
    save(old).into(new)
    assert walk.given(new) == was
    walk.apply_given(new, {"s.incr_ratio": 4.0})
    assert walk.given(new) == want


@pytest.mark.filterwarnings("ignore:It is not recommended to use dynamic loss scaling:UserWarning")
def test_disabled_by_itself(scaler, save):
    live, again = scaler(), scaler()
    live.scale(paddle.ones([]))
    assert not live.is_enable()
    save({"s": live}).into({"s": again})
    assert not again.is_enable()
    save({"s": scaler()}).into({"s": again})
    assert again.is_enable()
