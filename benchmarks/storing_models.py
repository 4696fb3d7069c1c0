"""What is trained for the benchmark of storage: seeded, on one thread, the same at every run."""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterable, Mapping
from functools import partial
from itertools import chain
from typing import Protocol

import torch
from sizes import Shape
from torch import nn
from torch.nn import functional
from training_model import Trainer

SHAPES = {
    "quick": Shape(64, 2, batch=2, context=32, rotations=0, segment_steps=0, long_turn=False),
    "small": Shape(128, 6, batch=4, context=64, rotations=0, segment_steps=0, long_turn=False),
    "large": Shape(256, 8, batch=4, context=64, rotations=0, segment_steps=0, long_turn=False),
}
"""0.1, 1.2 and 6.4 million parameters."""
WARM_STEPS = {"quick": 5, "small": 300, "large": 300}
"""Before the first checkpoint: training from scratch, or the pretraining of what is then fine-tuned."""
TINY_TENSORS = {"quick": 500, "small": 5000, "large": 5000}
FINE_TUNING = "email/*.py"
"""Other sources than those of the pretraining."""
RATE, FINE_TUNING_RATE = 3e-4, 2e-5
ADAPTING_RATE = 1e-3
Tensors = dict[str, torch.Tensor]


class Learner(Protocol):
    """Something that trains.

    ``tensors`` is all that a checkpoint of it holds, by name, live; those of the model begin with ``model/``.
    """

    def step(self) -> None: ...

    def tensors(self) -> Tensors: ...


class Language:
    """A transformer on Python's standard library, from scratch: fp32, AdamW."""

    def __init__(self, size: str) -> None:
        self.trainer = Trainer(SHAPES[size])
        for _ in range(WARM_STEPS[size]):
            self.step()

    def step(self) -> None:
        self.trainer.learn()
        self.trainer.step()

    def tensors(self) -> Tensors:
        trainer = self.trainer
        return _of_model(trainer.model) | _of_optimizer(trainer.optimizer, trainer.model.named_parameters())


class Adapter(nn.Module):
    """A frozen linear layer and a product of two small matrices beside it."""

    def __init__(self, base: nn.Linear, rank: int) -> None:
        super().__init__()
        self.base = base.requires_grad_(False)
        self.down = nn.Linear(base.in_features, rank, bias=False)
        self.up = nn.Linear(rank, base.out_features, bias=False)
        nn.init.zeros_(self.up.weight)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        found: torch.Tensor = self.base(x) + self.up(self.down(x))
        return found


class Adapted(Language):
    """The same, pretrained and frozen, fine-tuned through adapters of about ``share`` of its parameters."""

    def __init__(self, size: str, share: float) -> None:
        super().__init__(size)
        trainer, shape = self.trainer, SHAPES[size]
        trainer.read(FINE_TUNING)
        trainer.model.requires_grad_(False)
        rank = max(1, round(1.2 * shape.width * share))  # 10 rank width beside 12 width^2
        for block in trainer.model.blocks.layers:
            block.linear1, block.linear2 = Adapter(block.linear1, rank), Adapter(block.linear2, rank)
        adapters = [p for p in trainer.model.parameters() if p.requires_grad]
        trainer.optimizer = torch.optim.AdamW(adapters, lr=ADAPTING_RATE)


class PureBf16(Language):
    """The same, pretrained and fine-tuned in bf16: weights and moments."""

    def __init__(self, size: str) -> None:
        super().__init__(size)
        self.trainer.read(FINE_TUNING)
        self.trainer.model.to(torch.bfloat16)
        self.trainer.optimizer = torch.optim.AdamW(self.trainer.model.parameters(), lr=FINE_TUNING_RATE)


class Mixed:
    """The same, pretrained, then trained on with bf16 weights beside fp32 masters and fp32 moments."""

    def __init__(self, size: str) -> None:
        self._trainer = Language(size).trainer
        self._masters = copy.deepcopy(dict(self._trainer.model.named_parameters()))
        self._trainer.model.to(torch.bfloat16)
        self._trainer.optimizer = torch.optim.AdamW(self._masters.values(), lr=RATE)

    def step(self) -> None:
        self._trainer.learn()
        pairs = list(zip(self._masters.values(), self._trainer.model.parameters(), strict=True))
        for master, weight in pairs:
            assert weight.grad is not None
            master.grad, weight.grad = weight.grad.float(), None
        self._trainer.step()
        with torch.no_grad():
            for master, weight in pairs:
                weight.copy_(master)

    def tensors(self) -> Tensors:
        masters = {f"masters/{name}": tensor.detach() for name, tensor in self._masters.items()}
        moments = _of_optimizer(self._trainer.optimizer, self._masters.items())
        return _of_model(self._trainer.model) | masters | moments


class Digits:
    """A convolution net on scikit-learn's digits, SGD with momentum."""

    BATCH = 32

    def __init__(self, size: str) -> None:
        from sklearn.datasets import load_digits

        torch.set_num_threads(1)
        torch.manual_seed(0)
        width = 2 * SHAPES[size].width
        digits = load_digits()
        self._images = torch.tensor(digits.images, dtype=torch.float32).unsqueeze(1) / 16
        self._labels = torch.tensor(digits.target)
        self.model = nn.Sequential(
            *(nn.Conv2d(1, width, 3), nn.BatchNorm2d(width), nn.ReLU()),
            *(nn.Conv2d(width, width, 3), nn.BatchNorm2d(width), nn.ReLU()),
            *(nn.Flatten(), nn.Linear(16 * width, 10)),
        )
        self.optimizer = torch.optim.SGD(self.model.parameters(), lr=0.01, momentum=0.9)
        for _ in range(WARM_STEPS[size]):
            self.step()

    def step(self) -> None:
        chosen = torch.randint(len(self._labels), (self.BATCH,))
        functional.cross_entropy(self.model(self._images[chosen]), self._labels[chosen]).backward()
        self.optimizer.step()
        self.optimizer.zero_grad(set_to_none=True)

    def tensors(self) -> Tensors:
        return _of_model(self.model) | _of_optimizer(self.optimizer, self.model.named_parameters())


class Tiny:
    """Not trained: thousands of tiny tensors, half of them numbers that walk, half noise."""

    def __init__(self, size: str) -> None:
        self._random = torch.Generator().manual_seed(0)
        bytes_of_each = torch.randint(25, 513, (TINY_TENSORS[size],), generator=self._random) * 4
        self._walking = [torch.randn(n // 4, generator=self._random) for n in bytes_of_each[::2].tolist()]
        self._noise = [torch.empty(n, dtype=torch.uint8) for n in bytes_of_each[1::2].tolist()]
        self.step()

    def step(self) -> None:
        for tensor in self._walking:
            tensor.add_(torch.randn(tensor.shape, generator=self._random), alpha=1e-3)
        for tensor in self._noise:
            tensor.random_(generator=self._random)

    def tensors(self) -> Tensors:
        return {f"model/t{n}.weight": t for n, t in enumerate(chain(self._walking, self._noise))}


MODES: Mapping[str, Callable[[str], Learner]] = {
    "fp32": Language,
    "adapters-0.5": partial(Adapted, share=0.005),
    "adapters-2": partial(Adapted, share=0.02),
    "mixed": Mixed,
    "bf16": PureBf16,
    "digits": Digits,
    "tiny": Tiny,
}


def _of_model(model: nn.Module) -> Tensors:
    return {f"model/{name}": tensor.detach() for name, tensor in model.state_dict().items()}


def _of_optimizer(
    optimizer: torch.optim.Optimizer, parameters: Iterable[tuple[str, torch.Tensor]]
) -> Tensors:
    return {
        f"optimizer/{name}/{kind}": value
        for name, parameter in parameters
        for kind, value in optimizer.state.get(parameter, {}).items()
        if isinstance(value, torch.Tensor)
    }
