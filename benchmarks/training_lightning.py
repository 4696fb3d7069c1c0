"""Lightning's Trainer with its own checkpoints."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import torch
from lightning.fabric.plugins.io import TorchCheckpointIO
from lightning.pytorch import LightningModule
from lightning.pytorch import Trainer as Loop
from lightning.pytorch.callbacks import Callback, ModelCheckpoint
from lightning.pytorch.plugins.io import AsyncCheckpointIO
from sizes import Shape
from torch.utils.data import DataLoader, IterableDataset
from training_figures import BASELINE
from training_loops import OURS, Looped, Record
from training_model import Trainer

logging.getLogger("lightning.pytorch").setLevel(logging.ERROR)


class Learning(LightningModule):
    def __init__(self, trainer: Trainer) -> None:
        super().__init__()
        self.model = trainer.model
        self._ready = trainer.optimizer
        self._loss = trainer.loss_of

    def training_step(self, tokens: torch.Tensor) -> torch.Tensor:
        return self._loss(tokens)

    def configure_optimizers(self) -> torch.optim.Optimizer:
        return self._ready


class Batches(IterableDataset[torch.Tensor]):
    def __init__(self, batch: Callable[[], torch.Tensor]) -> None:
        self._batch = batch

    def __iter__(self) -> Iterator[torch.Tensor]:
        while True:
            yield self._batch()


class Steps(Callback):
    """Notes steps where the loop itself saves nothing."""

    def __init__(self, record: Record) -> None:
        self._record = record

    def on_train_start(self, *_: Any) -> None:
        self._record.begin()

    def on_train_batch_end(self, *_: Any) -> None:
        self._record.end_step()


class Saves(ModelCheckpoint):
    """Saves after the steps of a plan, instead of after every Nth; keeps the newest, as it does by itself."""

    def __init__(self, folder: Path, record: Record) -> None:
        super().__init__(folder, save_weights_only=False, every_n_train_steps=1)
        self._record = record

    def on_train_start(self, *told: Any) -> None:
        super().on_train_start(*told)
        self._record.begin()

    def on_train_batch_end(self, *told: Any) -> None:
        if self._record.due:
            with self._record.saving():
                super().on_train_batch_end(*told)
        self._record.end_step()


class Synced(TorchCheckpointIO):
    """Fsyncs what it has written, as it does not do by itself."""

    def __init__(self, record: Record) -> None:
        self._record = record

    def save_checkpoint(self, checkpoint: dict[str, Any], path: Any, storage_options: Any = None) -> None:
        super().save_checkpoint(checkpoint, path, storage_options)
        self._record.make_durable(Path(path))


class Lightning(Looped):
    ways = (BASELINE, *OURS, "Lightning ModelCheckpoint, fsync", "Lightning AsyncCheckpointIO, fsync")

    def run(self, name: str, folder: Path, record: Record) -> None:
        saves = name not in (BASELINE, *OURS)
        writer: Any = Synced(record)
        loop = Loop(
            accelerator="cpu",
            devices=1,
            max_steps=record.steps,
            default_root_dir=folder,
            callbacks=[Saves(folder, record) if saves else Steps(record)],
            plugins=[AsyncCheckpointIO(writer) if "Async" in name else writer],
            enable_checkpointing=saves,
            enable_progress_bar=False,
            enable_model_summary=False,
            logger=False,
        )
        data = DataLoader(Batches(self.trainer.batch), batch_size=None)
        loop.fit(Learning(self.trainer), data)


def subject(shape: Shape) -> Lightning:
    return Lightning(shape)
