"""Paddle models, optimizers, schedulers and loaders, put together as people put them together."""

from __future__ import annotations

import random
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import paddle
from paddle import nn
from paddle.io import BatchSampler, DataLoader, Dataset, DistributedBatchSampler, RandomSampler
from paddle.optimizer import lr as schedules

import holdfast

SAMPLES = 26
BATCH = 4


class Samples(Dataset):  # type: ignore[misc]  # Paddle ships no types
    """Tokens and targets with randomness from two generators, drawn where they are loaded."""

    def __len__(self) -> int:
        return SAMPLES

    def __getitem__(self, index: int) -> tuple[np.ndarray, np.ndarray, int]:
        shift = random.randrange(8) + int(np.random.randint(8))
        tokens = (np.arange(8) * (index + 1) + shift) % 16
        return tokens.astype("int64"), np.float32(tokens.mean()), index


class Convolution(nn.Layer):  # type: ignore[misc]  # Paddle ships no types
    def __init__(self) -> None:
        super().__init__()
        self.embed = nn.Embedding(16, 4)
        self.net = nn.Sequential(
            nn.Conv1D(4, 6, 3, padding=1), nn.BatchNorm1D(6), nn.ReLU(), nn.Dropout(0.3), nn.Flatten()
        )
        self.head = nn.Linear(48, 1)

    def forward(self, tokens: paddle.Tensor) -> paddle.Tensor:
        return self.head(self.net(self.embed(tokens).transpose([0, 2, 1]))).squeeze(1)


class Recurrent(nn.Layer):  # type: ignore[misc]  # Paddle ships no types
    def __init__(self) -> None:
        super().__init__()
        self.embed = nn.Embedding(16, 8)
        self.lstm = nn.LSTM(8, 8, num_layers=2, dropout=0.2)
        self.head = nn.Linear(8, 1)

    def forward(self, tokens: paddle.Tensor) -> paddle.Tensor:
        return self.head(self.lstm(self.embed(tokens))[0].mean(1)).squeeze(1)


def _optimizers(rate: Any, parameters: Any) -> dict[str, Callable[[], Any]]:
    kinds = paddle.optimizer
    return {
        "momentum": lambda: kinds.Momentum(rate, 0.9, parameters, use_nesterov=True),
        "adamw": lambda: kinds.AdamW(rate, parameters=parameters, grad_clip=nn.ClipGradByGlobalNorm(1.0)),
        "lamb": lambda: kinds.Lamb(rate, parameters=parameters),
        "adagrad": lambda: kinds.Adagrad(rate, parameters=parameters),
    }


SCHEDULERS: dict[str, Callable[[], Any]] = {
    "warm up": lambda: schedules.LinearWarmup(schedules.CosineAnnealingDecay(0.02, 20), 5, 0.0, 0.02),
    "one cycle": lambda: schedules.OneCycleLR(0.02, total_steps=40),
    "plateau": lambda: schedules.ReduceOnPlateau(0.02, patience=1),
    "constant": lambda: 0.02,
}
LOADERS: dict[str, Callable[[], Any]] = {
    "shuffled": lambda: DataLoader(Samples(), batch_size=BATCH, shuffle=True),
    "two workers": lambda: DataLoader(Samples(), batch_size=BATCH, shuffle=True, num_workers=2),
    "distributed": lambda: DataLoader(
        Samples(),
        batch_sampler=DistributedBatchSampler(Samples(), BATCH, num_replicas=1, rank=0, shuffle=True),
    ),
    "sampler": lambda: DataLoader(
        Samples(),
        batch_sampler=BatchSampler(sampler=RandomSampler(Samples()), batch_size=BATCH, drop_last=True),
        num_workers=2,
        persistent_workers=True,
    ),
}
MODELS = {"convolution": Convolution, "recurrent": Recurrent}


def train(repository: Path, model: str, optimizer: str, scheduler: str, loader: str) -> None:
    """Three epochs; the tests kill it at any of its lines."""
    for seed in (random.seed, np.random.seed, paddle.seed):
        seed(1)
    net = MODELS[model]()
    schedule = SCHEDULERS[scheduler]()
    steps = _optimizers(schedule, net.parameters())[optimizer]()
    data = LOADERS[loader]()
    seen: list[Any] = []
    state = {"net": net, "optimizer": steps, "seen": seen}
    if scheduler != "constant":
        state["schedule"] = schedule
    with holdfast.Checkpointer(repository, state, save="every 2 steps", keep="last 2") as ckpt:
        for epoch in ckpt.epochs(3):
            if loader == "distributed":
                data.batch_sampler.set_epoch(epoch)
            for tokens, target, index in ckpt.batches(data):
                loss = (net(tokens) - target).square().mean()
                loss.backward()
                steps.step()
                steps.clear_grad()
                seen.append([index.tolist(), loss.item()])
                ckpt.step(loss=loss)
                if scheduler in ("warm up", "one cycle"):
                    schedule.step()
            if scheduler == "plateau":
                schedule.step(seen[-1][1])
