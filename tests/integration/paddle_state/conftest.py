"""A round trip without storage: bytes of a capture, filled into another live state."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import msgspec
import paddle
import pytest

from holdfast.domain import tree
from holdfast.domain.tensors import TensorSpec
from holdfast.frameworks.walk import LoadPlan, capture, plan

paddle.set_device("cpu")


class Saved(msgspec.Struct):
    """What a repository would hold of one capture."""

    node: bytes
    specs: dict[str, TensorSpec]
    data: dict[str, bytes]

    @classmethod
    def of(cls, state: dict[str, Any]) -> Saved:
        taken = capture(state)
        return cls(
            msgspec.msgpack.encode(tree.encode(taken.tree)),
            {name: source.spec for name, source in taken.tensors.items()},
            {name: source.read().tobytes() for name, source in taken.tensors.items()},
        )

    def plan(self, state: dict[str, Any], **options: Any) -> LoadPlan:
        return plan(state, tree.decode(msgspec.msgpack.decode(self.node), state), self.specs, **options)

    def into(self, state: dict[str, Any], *, strict: bool = True) -> list[str]:
        load = self.plan(state)
        lines = load.raise_differences("The checkpoint", strict=strict)
        for name, target in load.reads:
            assert target.spec == self.specs[name]
            target.buffer()[:] = memoryview(self.data[name])
            target.commit()
        load.finish()
        return lines


@pytest.fixture
def save() -> Callable[[dict[str, Any]], Saved]:
    return Saved.of


def _bits(tensor: paddle.Tensor) -> tuple[str, list[int], bytes]:
    return str(tensor.dtype), list(tensor.shape), tensor.numpy().tobytes()


@pytest.fixture
def bits() -> Callable[..., Any]:
    """The exact content of a layer's tensors, by name."""

    def of(layer: paddle.nn.Layer) -> dict[str, Any]:
        return {name: _bits(tensor) for name, tensor in layer.state_dict().items()}

    return of


class Net(paddle.nn.Layer):
    """Convolution, batch norm, dropout, tied weights, both kinds of buffers."""

    def __init__(self) -> None:
        super().__init__()
        self.first = paddle.nn.Linear(6, 8)
        self.norm = paddle.nn.BatchNorm1D(8)
        self.drop = paddle.nn.Dropout(0.3)
        self.last = paddle.nn.Linear(8, 6)
        self.again = paddle.nn.Linear(6, 8, bias_attr=False)
        self.again.weight = self.first.weight
        self.unused = paddle.nn.Linear(2, 2)
        self.register_buffer("seen", paddle.zeros([], dtype="int64"))
        self.register_buffer("cache", paddle.rand([3]), persistable=False)

    def forward(self, x: paddle.Tensor) -> paddle.Tensor:
        self.seen += 1
        hidden = self.drop(self.norm(self.first(x)))
        return self.again(self.last(hidden)) * self.cache.sum()


@pytest.fixture
def net() -> type[Net]:
    return Net


def train(state: dict[str, Any], steps: int, first: int = 0) -> list[bytes]:
    losses = []
    for step in range(first, first + steps):
        x = paddle.to_tensor([[float((i * 7 + j * 3 + step) % 11) / 7 for j in range(6)] for i in range(5)])
        loss = (state["model"](x) ** 2).mean()
        loss.backward()
        state["optimizer"].step()
        state["optimizer"].clear_grad()
        if "scheduler" in state:
            state["scheduler"].step()
        losses.append(loss.numpy().tobytes())
    return losses


@pytest.fixture(name="train")
def _train() -> Callable[..., list[bytes]]:
    """Train some steps; the losses' bits."""
    return train


def build(make: type[Net]) -> dict[str, Any]:
    model = make()
    scheduler = paddle.optimizer.lr.LinearWarmup(
        paddle.optimizer.lr.CosineAnnealingDecay(0.05, 5), 2, 0.01, 0.05
    )
    optimizer = paddle.optimizer.AdamW(scheduler, parameters=model.parameters())
    return {"model": model, "optimizer": optimizer, "scheduler": scheduler}


@pytest.fixture(name="build")
def _build() -> Callable[..., dict[str, Any]]:
    """A model, its optimizer, and the scheduler in both."""
    return build
