"""A small GPT of PyTorch that learns the bytes of Python's own standard library."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from sizes import Shape
from torch import nn
from torch.nn import functional
from training_text import VALUES, text


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
        self.read("*.py")
        self.model = Model(shape)
        self.optimizer = torch.optim.AdamW(self.model.parameters(), lr=3e-4)

    def read(self, pattern: str) -> None:
        """Learn these of the standard library's sources from now on."""
        self._text = torch.frombuffer(text(pattern), dtype=torch.uint8)

    def learn(self) -> None:
        """Forward and backward."""
        self.loss = self.loss_of(self.batch())
        self.loss.backward()

    def loss_of(self, tokens: torch.Tensor) -> torch.Tensor:
        scores = self.model(tokens[:, :-1])
        return functional.cross_entropy(scores.flatten(0, 1), tokens[:, 1:].flatten())

    def step(self) -> None:
        self.optimizer.step()
        self.optimizer.zero_grad(set_to_none=True)

    def batch(self) -> torch.Tensor:
        return torch.stack([self.sample() for _ in range(self._shape.batch)])

    def sample(self) -> torch.Tensor:
        context = self._shape.context + 1
        start = int(torch.randint(len(self._text) - context, ()))
        return self._text[start : start + context].long()

    @property
    def state(self) -> dict[str, Any]:
        """What Holdfast is given."""
        return {"model": self.model, "optimizer": self.optimizer}

    def state_dicts(self) -> dict[str, Any]:
        """What the others are given."""
        return {"model": self.model.state_dict(), "optimizer": self.optimizer.state_dict()}

    def arrays(self) -> dict[str, np.ndarray]:
        """All that is saved; after the first step."""
        kept = {f"model.{name}": tensor for name, tensor in self.model.state_dict().items()}
        for number, entry in self.optimizer.state_dict()["state"].items():
            kept |= {f"optimizer.{number}.{name}": tensor for name, tensor in entry.items()}
        return {name: tensor.numpy() for name, tensor in kept.items()}
