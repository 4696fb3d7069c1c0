"""A small GPT that learns the bytes of Python's own standard library, in three sizes."""

from __future__ import annotations

import sysconfig
from pathlib import Path
from typing import Any

import torch
from sizes import Shape
from torch import nn
from torch.nn import functional

TEXT_BYTES = 8_000_000
VALUES = 256


class Model(nn.Module):
    def __init__(self, shape: Shape) -> None:
        super().__init__()
        width, context = shape.width, shape.context
        layer = nn.TransformerEncoderLayer(
            width, width // 64, 4 * width, dropout=0.0, batch_first=True, norm_first=True
        )
        self.tokens = nn.Embedding(VALUES, width)
        nn.init.normal_(self.tokens.weight, std=0.02)
        self.positions = nn.Parameter(torch.zeros(context, width))
        self.blocks = nn.TransformerEncoder(layer, shape.layers, enable_nested_tensor=False)
        self.norm = nn.LayerNorm(width)
        self.register_buffer(
            "mask", nn.Transformer.generate_square_subsequent_mask(context), persistent=False
        )

    def forward(self, tokens: torch.Tensor) -> torch.Tensor:
        embedded = self.tokens(tokens) + self.positions
        hidden = self.norm(self.blocks(embedded, mask=self.mask, is_causal=True))
        return functional.linear(hidden, self.tokens.weight)


class Trainer:
    """A model, its optimizer and its data; one step in two halves, so that saving can come between."""

    def __init__(self, shape: Shape) -> None:
        torch.set_num_threads(1)
        torch.manual_seed(0)
        self._shape = shape
        self._text = text()
        self.model = Model(shape)
        self.optimizer = torch.optim.AdamW(self.model.parameters(), lr=3e-4)

    def learn(self) -> None:
        """Forward and backward."""
        tokens = self._batch()
        scores = self.model(tokens[:, :-1])
        self.loss = functional.cross_entropy(scores.flatten(0, 1), tokens[:, 1:].flatten())
        self.loss.backward()

    def step(self) -> None:
        self.optimizer.step()
        self.optimizer.zero_grad(set_to_none=True)

    def _batch(self) -> torch.Tensor:
        context = self._shape.context + 1
        starts = torch.randint(len(self._text) - context, (self._shape.batch,)).tolist()
        return torch.stack([self._text[start : start + context] for start in starts]).long()

    @property
    def state(self) -> dict[str, Any]:
        """What Holdfast is given."""
        return {"model": self.model, "optimizer": self.optimizer}

    def state_dicts(self) -> dict[str, Any]:
        """What the others are given."""
        return {"model": self.model.state_dict(), "optimizer": self.optimizer.state_dict()}

    @property
    def tensors(self) -> list[torch.Tensor]:
        """All that is saved; after the first step."""
        kept = [tensor for entry in self.optimizer.state.values() for tensor in entry.values()]
        return [*self.model.state_dict().values(), *kept]


def text() -> torch.Tensor:
    """The standard library's sources, one after the other."""
    read = bytearray()
    for source in sorted(Path(sysconfig.get_paths()["stdlib"]).glob("*.py")):
        read += source.read_bytes()
        if len(read) >= TEXT_BYTES:
            break
    return torch.frombuffer(read, dtype=torch.uint8)
