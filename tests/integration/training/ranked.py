"""Trainings of two ranks on this machine, each rank a forked process that gloo joins on loopback."""

from __future__ import annotations

import os
import random
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import torch
import torch._dynamo  # DDP needs it: once here, or two seconds in every rank
import torch.distributed as dist
from tests.integration.training.launching import Launched, Tell, launch
from torch import nn
from torch.nn.parallel import DistributedDataParallel
from torch.utils.data import DataLoader, DistributedSampler, TensorDataset

import holdfast
from holdfast.repository.repository import Repository
from holdfast.repository.run import Run
from holdfast.storage.local import LocalStorage

WORLD = 2
EPOCHS = 3
STEPS = 18
Made = dict[tuple[int, int], list[bytes]]
"""By step and epoch."""
Each = Callable[[holdfast.Checkpointer, int, int], None]


def train(repository: Path, rank: int, each: Each = lambda ckpt, rank, step: None, **options: Any) -> None:
    """One rank: its own shuffle, dropout and running statistics; the model is the others', too."""
    for seed in (random.seed, np.random.seed, torch.manual_seed, *_others()):
        seed(7)
    net = nn.Sequential(
        nn.Linear(8, 16), nn.BatchNorm1d(16), nn.ReLU(), nn.Dropout(0.2), nn.Linear(16, 4, bias=False)
    )
    model = DistributedDataParallel(net)
    optimizer = torch.optim.AdamW(model.parameters(), lr=0.01)
    scheduler = torch.optim.lr_scheduler.StepLR(optimizer, 4)
    drawn = torch.Generator().manual_seed(3)
    data = TensorDataset(
        torch.randn(48, 8, generator=drawn), torch.randint(0, 4, (48,), generator=drawn), torch.arange(48)
    )
    sampler = DistributedSampler(data, WORLD, rank, seed=5)
    loader = DataLoader(data, batch_size=4, sampler=sampler)
    for seed in (random.seed, np.random.seed, torch.manual_seed):
        seed(100 + rank)
    state = {"model": model, "optimizer": optimizer, "scheduler": scheduler, "log": []}
    options = {"save": "every 2 steps", "keep": "last 100"} | options
    with holdfast.Checkpointer(repository, state, **options) as ckpt:
        for epoch in ckpt.epochs(EPOCHS):
            sampler.set_epoch(epoch)
            for x, y, index in ckpt.batches(loader):
                optimizer.zero_grad()
                loss = nn.functional.cross_entropy(model(x), y)
                loss.backward()
                optimizer.step()
                state["log"].append([*index.tolist(), random.random()])
                step = ckpt.step(loss=loss.item())
                each(ckpt, rank, step)
            scheduler.step()


def _others() -> list[Callable[[int], object]]:
    """Generators that are captured, too, because other tests of this process use them."""
    return [sys.modules["paddle"].seed] if "paddle" in sys.modules else []


class Ranks:
    """A launch: the two processes, and how they ended."""

    def __init__(self, act: Callable[[int, Tell], None]) -> None:
        self._meeting = tempfile.NamedTemporaryFile()  # noqa: SIM115  # outlives this function
        self.processes: list[Launched] = [launch(self._rank(act, rank)) for rank in range(WORLD)]

    def _rank(self, act: Callable[[int, Tell], None], rank: int) -> Callable[[Tell], None]:
        def run(tell: Tell) -> None:
            os.environ |= {"RANK": str(rank), "WORLD_SIZE": str(WORLD), "LOCAL_WORLD_SIZE": str(WORLD)}
            torch.set_num_threads(1)
            dist.init_process_group("gloo", f"file://{self._meeting.name}", rank=rank, world_size=WORLD)
            act(rank, tell)
            dist.destroy_process_group()

        return run

    def wait(self) -> list[int]:
        codes = [process.wait() for process in self.processes]
        self._meeting.close()
        return codes

    @property
    def said(self) -> list[str]:
        return [process.said for process in self.processes]


def trained(repository: Path, each: Each = lambda ckpt, rank, step: None, **options: Any) -> Ranks:
    """A launch that has ended."""
    ranks = Ranks(lambda rank, tell: train(repository, rank, each, **options))
    ranks.codes = ranks.wait()
    return ranks


def run_of(repository: Path) -> Run:
    return Repository.open(LocalStorage(repository)).run("main")


def made(repository: Path) -> Made:
    """All of every checkpoint on the run's line: what tensors hold, state, generators and positions."""
    run = run_of(repository)
    found: Made = {}
    for checkpoint in run.lineage():
        manifest = run.manifest(checkpoint)
        parts = (manifest.tensors, manifest.details.tree, manifest.details.training, manifest.ranks)
        progress = manifest.summary.progress
        found[progress.step, progress.epoch] = [msgspec.msgpack.encode(part) for part in parts]
    return found
