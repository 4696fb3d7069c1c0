"""The Trainer of Hugging Face with its own checkpoints: weights as safetensors, optimizer.pt and the rest."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from sizes import Shape
from torch import nn
from torch.utils.data import Dataset
from training_figures import BASELINE
from training_loops import OURS, Looped, Record
from training_model import Trainer
from training_way import KEPT
from transformers import Trainer as Loop
from transformers import TrainerCallback, TrainingArguments
from transformers.trainer_callback import PrinterCallback


class Learning(nn.Module):
    """Tells its loss, as such a Trainer wants."""

    def __init__(self, trainer: Trainer) -> None:
        super().__init__()
        self.model = trainer.model
        self._loss = trainer.loss_of

    def forward(self, tokens: torch.Tensor) -> dict[str, torch.Tensor]:
        return {"loss": self._loss(tokens)}


class Samples(Dataset[dict[str, torch.Tensor]]):
    def __init__(self, trainer: Trainer, count: int) -> None:
        self._trainer = trainer
        self._count = count

    def __len__(self) -> int:
        return self._count

    def __getitem__(self, number: int) -> dict[str, torch.Tensor]:
        return {"tokens": self._trainer.sample()}


class Steps(TrainerCallback):
    """Asks for saves, and notes when steps end: when the next one begins, after whatever was saved."""

    def __init__(self, record: Record, *, saves: bool) -> None:
        self._record = record
        self._saves = saves
        self._begun = False

    def on_step_begin(self, *_: Any, **__: Any) -> None:
        if self._begun:
            self._record.end_step()
        else:
            self._record.begin()
        self._begun = True

    def on_step_end(self, _: Any, __: Any, control: Any, **___: Any) -> None:
        control.should_save = self._saves and self._record.due

    def on_train_end(self, *_: Any, **__: Any) -> None:
        self._record.end_step()


class Saving(Loop):
    """Fsyncs what it has saved, as it does not do by itself."""

    record: Record

    def _save_checkpoint(self, *told: Any, **named: Any) -> None:
        with self.record.saving():
            super()._save_checkpoint(*told, **named)
            self.record.make_durable(Path(self.args.output_dir) / f"checkpoint-{self.state.global_step}")


class Transformers(Looped):
    ways = (BASELINE, *OURS, "Hugging Face Trainer, fsync")

    def run(self, name: str, folder: Path, record: Record) -> None:
        arguments = TrainingArguments(
            output_dir=str(folder),
            max_steps=record.steps,
            per_device_train_batch_size=self.shape.batch,
            save_strategy="no",  # the callback says when
            save_total_limit=KEPT,
            logging_strategy="no",
            report_to="none",
            disable_tqdm=True,
            max_grad_norm=0.0,
            use_cpu=True,
        )
        optimizer = self.trainer.optimizer
        loop = Saving(
            Learning(self.trainer),
            arguments,
            train_dataset=Samples(self.trainer, record.steps * self.shape.batch),
            optimizers=(optimizer, torch.optim.lr_scheduler.ConstantLR(optimizer, factor=1.0)),
            callbacks=[Steps(record, saves=name not in (BASELINE, *OURS))],
        )
        loop.remove_callback(PrinterCallback)
        loop.record = record
        loop.train()


def subject(shape: Shape) -> Transformers:
    return Transformers(shape)
