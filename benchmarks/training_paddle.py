"""PaddlePaddle, trained step by step, and who saves it."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import paddle
from measure import make_durable
from paddle import nn
from paddle.framework.io import clear_async_save_task_queue
from paddle.nn import functional
from sizes import Shape
from training_figures import BASELINE
from training_steps import Driven
from training_text import VALUES, text
from training_way import KEPT, Blocking, Holdfast, HoldfastBackground, Waited, Way


class Model(nn.Layer):
    def __init__(self, shape: Shape) -> None:
        super().__init__()
        width, context = shape.width, shape.context
        layer = nn.TransformerEncoderLayer(width, width // 64, 4 * width, dropout=0.0, normalize_before=True)
        self.tokens = nn.Embedding(VALUES, width, weight_attr=nn.initializer.Normal(std=0.02))
        self.positions = self.create_parameter([context, width])
        self.blocks = nn.TransformerEncoder(layer, shape.layers)
        self.norm = nn.LayerNorm(width)
        self._mask = nn.Transformer.generate_square_subsequent_mask(self, context)

    def forward(self, tokens: paddle.Tensor) -> paddle.Tensor:
        embedded = self.tokens(tokens) + self.positions
        hidden = self.norm(self.blocks(embedded, self._mask))
        return paddle.matmul(hidden, self.tokens.weight, transpose_y=True)


class Trainer:
    """A model, its optimizer and its data."""

    def __init__(self, shape: Shape) -> None:
        paddle.set_device("cpu")
        paddle.seed(0)
        self._shape = shape
        self._text = np.frombuffer(text(), np.uint8)
        self.model = Model(shape)
        self.optimizer = paddle.optimizer.AdamW(3e-4, parameters=self.model.parameters())

    def learn(self) -> None:
        tokens = self._batch()
        scores = self.model(tokens[:, :-1])
        self.loss = functional.cross_entropy(scores, tokens[:, 1:])
        self.loss.backward()

    def step(self) -> None:
        self.optimizer.step()
        self.optimizer.clear_grad(set_to_zero=False)

    def _batch(self) -> paddle.Tensor:
        context = self._shape.context + 1
        starts = paddle.randint(0, len(self._text) - context, [self._shape.batch]).tolist()
        return paddle.to_tensor(np.stack([self._text[s : s + context] for s in starts]).astype(np.int64))

    @property
    def state(self) -> dict[str, Any]:
        return {"model": self.model, "optimizer": self.optimizer}

    def arrays(self) -> dict[str, np.ndarray]:
        return arrays(self.model.state_dict(), self.optimizer.state_dict())


def arrays(model: Mapping[str, Any], optimizer: Mapping[str, Any]) -> dict[str, np.ndarray]:
    kept = {**model, **optimizer}
    return {name: kept[name].numpy() for name in sorted(kept) if isinstance(kept[name], paddle.Tensor)}


class PaddleSave(Blocking):
    """paddle.save of two files, which writes them in place and does not fsync."""

    trainer: Trainer

    def _save(self, path: Path) -> None:
        for name, state in _halves(self.trainer).items():
            paddle.save(state, str(path / name))
        make_durable(path)

    def saved(self) -> Mapping[str, np.ndarray]:
        return _loaded(self.folder / str((len(self.durable_seconds) - 1) % KEPT))


class PaddleAsyncSave(Waited):
    """paddle.async_save of the same two files; they are fsynced in the background, too."""

    trainer: Trainer

    def _begin(self, number: int) -> Path:
        path = self.folder / str(number % KEPT)
        for name, state in _halves(self.trainer).items():
            paddle.async_save(state, str(path / name))
        return path

    def _wait(self) -> None:
        clear_async_save_task_queue()

    def saved(self) -> Mapping[str, np.ndarray]:
        return _loaded(self.folder / str((self._saves - 1) % KEPT))


def _halves(trainer: Trainer) -> dict[str, Any]:
    return {"model.pdparams": trainer.model.state_dict(), "model.pdopt": trainer.optimizer.state_dict()}


def _loaded(path: Path) -> dict[str, np.ndarray]:
    return arrays(paddle.load(str(path / "model.pdparams")), paddle.load(str(path / "model.pdopt")))


WAYS: dict[str, type[Way]] = {
    BASELINE: Way,
    "holdfast, background": HoldfastBackground,
    "holdfast, blocking": Holdfast,
    "paddle.save, fsync": PaddleSave,
    "paddle.async_save, fsync": PaddleAsyncSave,
}


def subject(shape: Shape) -> Driven:
    return Driven(Trainer(shape), WAYS)
