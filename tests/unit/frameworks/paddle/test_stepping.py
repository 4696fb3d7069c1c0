"""Steps are seen however they are taken, once each."""

from __future__ import annotations

import threading
from typing import Any

import paddle
import pytest

from holdfast.frameworks.paddle import FRAMEWORK, stepping

pytestmark = pytest.mark.paddle


def make(kind: str) -> tuple[Any, Any]:
    weights = [paddle.create_parameter([2], "float32") for _ in range(2)]
    if kind == "groups":
        parameters: Any = [{"params": [w]} for w in weights]
    else:
        parameters = weights
    optimizer = paddle.optimizer.Adam(0.1, parameters=parameters)
    if kind == "lookahead":
        optimizer = paddle.incubate.optimizer.LookAhead(optimizer)
    return weights[0], optimizer


@pytest.mark.filterwarnings("ignore:Op `increment` is executed through:DeprecationWarning")
@pytest.mark.parametrize("kind", ["plain", "groups", "lookahead"])
def test_step_and_minimize_count_once(kind):
    weight, optimizer = make(kind)
    seen: list[int] = []
    undo = FRAMEWORK.watch_steps([optimizer, 3], lambda: seen.append(1))
    assert not FRAMEWORK.has_gradients([optimizer])
    (weight * weight).sum().backward()
    assert FRAMEWORK.has_gradients([3, optimizer])
    optimizer.step()
    assert len(seen) == 1
    if kind != "groups":  # Paddle's minimize() takes no groups
        optimizer.clear_grad()
        loss = (weight * weight).sum()
        loss.backward()
        optimizer.minimize(loss)
        assert len(seen) == 2
    optimizer.clear_grad()
    assert not FRAMEWORK.has_gradients([optimizer])
    undo()
    seen.clear()
    (weight * weight).sum().backward()
    optimizer.step()
    assert seen == []
    assert not {"step", "minimize", "_apply_optimize"} & set(vars(optimizer))


def test_a_step_that_fails_is_none():
    weight, optimizer = make("plain")
    seen: list[int] = []
    FRAMEWORK.watch_steps([optimizer], lambda: seen.append(1))
    optimizer._grad_clip = lambda pairs: 1 / 0
    weight.sum().backward()
    with pytest.raises(ZeroDivisionError):
        optimizer.step()
    optimizer._grad_clip = None
    optimizer.step()
    assert seen == [1]


@pytest.mark.filterwarnings("ignore:To copy construct from a tensor:UserWarning")
def test_lbfgs_counts_its_closures_as_one():
    weight = paddle.create_parameter([2], "float32")
    optimizer = paddle.optimizer.LBFGS(0.1, max_iter=3, parameters=[weight])
    seen: list[int] = []
    FRAMEWORK.watch_steps([optimizer], lambda: seen.append(1))

    def closure() -> paddle.Tensor:
        optimizer.clear_grad()
        loss = ((weight - 1) ** 2).sum()
        loss.backward()
        return loss

    optimizer.step(closure)
    assert seen == [1]


def test_what_is_called_before_a_step_is_called_for_every_optimizer_and_write_there_is():
    weight, optimizer = make("plain")
    were = [vars(owner)[name] for owner, name in stepping._CHANGES]
    seen: list[int] = []
    undos = [FRAMEWORK.watch_steps([optimizer], lambda: None, lambda: seen.append(1)) for _ in range(2)]
    others = [
        paddle.optimizer.SGD(parameters=[weight]),
        paddle.optimizer.AdamW(parameters=[{"params": [weight]}]),
        paddle.optimizer.LBFGS(parameters=[weight], max_iter=1),
    ]

    def loss() -> paddle.Tensor:
        total = (weight * weight).sum()
        total.backward()
        return total

    for other in others:
        seen.clear()
        loss()
        other.step(*[loss] * isinstance(other, paddle.optimizer.LBFGS))
        assert seen
    layer = paddle.nn.Linear(2, 2)
    ones = {name: paddle.ones(tensor.shape) for name, tensor in layer.state_dict().items()}
    for write in (lambda: layer.set_state_dict(ones), lambda: weight.copy_(weight + 1, True)):
        seen.clear()
        write()
        assert seen
    assert (layer.weight.numpy() == 1).all()
    seen.clear()
    thread = threading.Thread(target=lambda: weight.set_value(weight + 1))
    thread.start()
    thread.join()
    assert seen == []  # a fence is closed by the thread that trains
    undos[0]()
    others[0].step()
    assert seen
    undos[1]()
    assert [vars(owner)[name] for owner, name in stepping._CHANGES] == were


def test_environment():
    found = FRAMEWORK.environment()
    assert paddle.__version__ in found.versions["paddle"]
    assert found.devices == {"paddle": "cpu"}
    assert "paddle.FLAGS_use_stride_kernel" in found.flags
