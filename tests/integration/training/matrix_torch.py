"""Models, optimizers, schedulers and loaders, put together as people put them together."""

from __future__ import annotations

import random
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn
from torch.optim import lr_scheduler as schedules
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn
from torch.utils.data import DataLoader, Dataset, IterableDataset, WeightedRandomSampler
from torchdata.stateful_dataloader import StatefulDataLoader

import holdfast

SAMPLES = 26
BATCH = 4


class Samples(Dataset[dict[str, torch.Tensor]]):
    """Tokens and targets with randomness from three generators, drawn where they are loaded."""

    def __len__(self) -> int:
        return SAMPLES

    def __getitem__(self, index: int) -> dict[str, torch.Tensor]:
        shift = random.randrange(8) + int(np.random.randint(8)) + int(torch.randint(8, ()))
        tokens = (torch.arange(8) * (index + 1) + shift) % 16
        return {"index": torch.tensor(index), "tokens": tokens, "target": tokens.float().mean()}


class Stream(IterableDataset[dict[str, torch.Tensor]]):
    """An endless source cut to length, with a state of its own."""

    def __init__(self) -> None:
        self.position = 0

    def __iter__(self) -> Iterable[dict[str, torch.Tensor]]:
        samples = Samples()
        while self.position < SAMPLES:
            self.position += 1
            yield samples[self.position - 1]
        self.position = 0

    def state_dict(self) -> dict[str, int]:
        return {"position": self.position}

    def load_state_dict(self, state: dict[str, int]) -> None:
        self.position = state["position"]


class Convolution(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.embed = nn.Embedding(16, 4, max_norm=1.0)
        self.net = nn.Sequential(
            nn.Conv1d(4, 6, 3, padding=1), nn.BatchNorm1d(6), nn.ReLU(), nn.Dropout(0.3), nn.Flatten()
        )
        self.head = nn.Linear(48, 1)

    def forward(self, tokens: torch.Tensor) -> torch.Tensor:
        return self.head(self.net(self.embed(tokens).transpose(1, 2))).squeeze(1)


class Recurrent(nn.Module):
    """An LSTM whose output weights are those of its embedding."""

    def __init__(self) -> None:
        super().__init__()
        self.embed = nn.Embedding(16, 8)
        self.lstm = nn.LSTM(8, 8, num_layers=2, dropout=0.2, batch_first=True)
        self.out = nn.Linear(8, 16, bias=False)
        self.out.weight = self.embed.weight

    def forward(self, tokens: torch.Tensor) -> torch.Tensor:
        return self.out(self.lstm(self.embed(tokens))[0]).mean(dim=(1, 2)) * 10


class Attention(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.embed = nn.Embedding(16, 8)
        self.block = nn.TransformerEncoderLayer(8, 2, 16, dropout=0.1, batch_first=True)
        self.head = nn.Linear(8, 1)

    def forward(self, tokens: torch.Tensor) -> torch.Tensor:
        return self.head(self.block(self.embed(tokens)).mean(1)).squeeze(1)


OPTIMIZERS: dict[str, Callable[[Any], torch.optim.Optimizer]] = {
    "sgd": lambda p: torch.optim.SGD(p, lr=0.01, momentum=0.9, nesterov=True),
    "adamw": lambda p: torch.optim.AdamW(p, lr=0.01, fused=True),
    "amsgrad": lambda p: torch.optim.Adam(p, lr=0.01, amsgrad=True, foreach=True),
    "rmsprop": lambda p: torch.optim.RMSprop(p, lr=0.01, centered=True, momentum=0.5),
    "adagrad": lambda p: torch.optim.Adagrad(p, lr=0.01),
    "nadam": lambda p: torch.optim.NAdam(p, lr=0.01),
    "lbfgs": lambda p: torch.optim.LBFGS(p, lr=0.1, max_iter=3),
    "radam": lambda p: torch.optim.RAdam(p, lr=0.01, weight_decay=0.1, decoupled_weight_decay=True),
}
SCHEDULERS: dict[str, Callable[[torch.optim.Optimizer], Any]] = {
    "one cycle": lambda o: schedules.OneCycleLR(o, max_lr=0.02, total_steps=40),
    "sequence": lambda o: schedules.SequentialLR(
        o, [schedules.LinearLR(o, total_iters=5), schedules.CosineAnnealingLR(o, T_max=20)], [5]
    ),
    "plateau": lambda o: schedules.ReduceLROnPlateau(o, patience=1, factor=0.5),
    "restarts": lambda o: schedules.CosineAnnealingWarmRestarts(o, T_0=4, T_mult=2),
    "chained": lambda o: schedules.ChainedScheduler(
        [schedules.ExponentialLR(o, 0.95), schedules.StepLR(o, 3)], optimizer=o
    ),
    "lambda": lambda o: schedules.LambdaLR(o, lambda step: 1 / (1 + step)),
}
LOADERS: dict[str, Callable[[], Any]] = {
    "shuffled": lambda: DataLoader(Samples(), BATCH, shuffle=True),
    "two workers": lambda: DataLoader(Samples(), BATCH, shuffle=True, num_workers=2),
    "persistent": lambda: DataLoader(Samples(), BATCH, shuffle=True, num_workers=2, persistent_workers=True),
    "weighted": lambda: DataLoader(
        Samples(), BATCH, sampler=WeightedRandomSampler(torch.arange(1.0, SAMPLES + 1), SAMPLES)
    ),
    "own generator": lambda: DataLoader(
        Samples(), BATCH, shuffle=True, generator=torch.Generator().manual_seed(5), drop_last=True
    ),
    "stream": lambda: DataLoader(Stream(), BATCH),
    "stateful": lambda: StatefulDataLoader(Samples(), BATCH, shuffle=True),
    "list": lambda: [
        {
            "tokens": torch.arange(8).repeat(2, 1) + i % 8,
            "target": torch.tensor([i, i / 2]),
            "index": torch.tensor([i]),
        }
        for i in range(7)
    ],
}
MODELS = {"convolution": Convolution, "recurrent": Recurrent, "attention": Attention}


def train(repository: Path, model: str, optimizer: str, scheduler: str, loader: str) -> None:
    """Three epochs; `train_lines` in the tests kills it at any of its lines."""
    torch.manual_seed(1)
    random.seed(2)
    np.random.seed(3)
    net = MODELS[model]()
    steps = OPTIMIZERS[optimizer](net.parameters())
    schedule = SCHEDULERS[scheduler](steps)
    average = AveragedModel(net, multi_avg_fn=get_ema_multi_avg_fn(0.9))
    data = LOADERS[loader]()
    seen: list[Any] = []
    state = {"net": net, "optimizer": steps, "schedule": schedule, "average": average, "seen": seen}
    with holdfast.Checkpointer(repository, state, save="every 2 steps", keep="last 2") as ckpt:
        for _ in ckpt.epochs(3):
            for batch in ckpt.batches(data):

                def closure(batch: Any = batch) -> torch.Tensor:
                    steps.zero_grad()
                    error = (net(batch["tokens"]) - batch["target"]).square().mean()
                    error.backward()
                    return error

                loss = steps.step(closure)
                average.update_parameters(net)
                seen.append([batch["index"].tolist(), loss.item()])
                ckpt.step(loss=loss)
                if scheduler != "plateau":
                    schedule.step()
            if scheduler == "plateau":
                schedule.step(seen[-1][1])
