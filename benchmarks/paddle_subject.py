"""A PaddlePaddle AdamW training state, and who saves it."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import paddle
from blake3 import blake3
from contenders import Contender, Subject, holdfast_contender
from paddle import nn
from sizes import Sizes


def build(sizes: Sizes) -> tuple[Any, Any]:
    """A model that has taken one AdamW step, so that its optimizer's state is there."""
    paddle.set_device("cpu")
    paddle.seed(0)
    width, small = sizes.width, sizes.small_width
    blocks = [
        nn.TransformerEncoderLayer(width, width // 64, 4 * width, dropout=0.0) for _ in range(sizes.layers)
    ]
    tower = [
        nn.Sequential(nn.Conv1D(small, small, 1), nn.BatchNorm1D(small)) for _ in range(sizes.small_blocks)
    ]
    model = nn.LayerDict(
        {
            "tokens": nn.Embedding(sizes.vocabulary, width),
            "positions": nn.Embedding(sizes.positions, width),
            "blocks": nn.LayerList(blocks),
            "tower": nn.LayerList(tower),
        }
    )
    optimizer = paddle.optimizer.AdamW(1e-3, parameters=model.parameters())
    for parameter in model.parameters():
        (parameter * paddle.randn(parameter.shape)).sum().backward()
    optimizer.step()
    optimizer.clear_grad(set_to_zero=False)
    return model, optimizer


def subject(sizes: Sizes) -> Subject:
    model, optimizer = build(sizes)

    def tensors() -> Iterator[Any]:
        yield from model.state_dict().values()
        for _, value in sorted(optimizer.state_dict().items()):
            if isinstance(value, paddle.Tensor):
                yield value

    def fingerprint() -> str:
        digest = blake3()
        for tensor in tensors():
            digest.update(tensor.numpy().tobytes())
        return digest.hexdigest()

    def scramble() -> None:
        with paddle.no_grad():
            for tensor in tensors():
                tensor.zero_()

    return Subject(
        size_bytes=sum(t.size * t.element_size() for t in tensors()),
        tensors=sum(1 for _ in tensors()),
        fingerprint=fingerprint,
        scramble=scramble,
        contenders=[
            holdfast_contender({"model": model, "optimizer": optimizer}),
            _paddle_save(model, optimizer),
        ],
    )


def _paddle_save(model: Any, optimizer: Any) -> Contender:
    def save(path: Path) -> bool:
        path.mkdir()
        paddle.save(model.state_dict(), str(path / "model.pdparams"))
        paddle.save(optimizer.state_dict(), str(path / "model.pdopt"))
        return False

    def load(path: Path) -> None:
        model.set_state_dict(paddle.load(str(path / "model.pdparams")))
        optimizer.set_state_dict(paddle.load(str(path / "model.pdopt")))

    return Contender("paddle.save", save, load)
