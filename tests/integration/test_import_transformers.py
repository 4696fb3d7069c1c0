"""Imported from Hugging Face's Trainer, training goes on bit for bit as the Trainer's own does.

Runs where transformers and accelerate are installed (the extra ``bench-rivals``).
"""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import pytest
import torch

import holdfast
from holdfast.formats.series import import_folder
from holdfast.repository.repository import Repository
from holdfast.storage.local import LocalStorage

transformers = pytest.importorskip("transformers")
pytest.importorskip("accelerate")

FOREIGN = Path(__file__).parent / "foreign" / "trainer"
pytestmark = pytest.mark.filterwarnings("ignore")


def arguments(folder: Path) -> Any:
    return transformers.TrainingArguments(
        str(folder),
        per_device_train_batch_size=4,
        max_steps=6,
        logging_steps=1,
        save_strategy="no",
        eval_strategy="steps",
        eval_steps=2,
        learning_rate=1e-2,
        warmup_steps=2,
        report_to=[],
        use_cpu=True,
        disable_tqdm=True,
        dataloader_pin_memory=False,
    )


def made(kind: Any, folder: Path) -> Any:
    data = [{"input_ids": [i % 13, (3 * i) % 13, 1], "labels": i % 3} for i in range(24)]
    model = transformers.BertForSequenceClassification.from_pretrained(FOREIGN / "checkpoint-2")
    return kind(model, arguments(folder), train_dataset=data, eval_dataset=data[:8])


def trained_by_the_trainer(folder: Path) -> tuple[list[dict[str, torch.Tensor]], dict[str, torch.Tensor]]:
    """The batches of steps 5 and 6 when the Trainer itself resumes, and the weights then."""
    seen: list[dict[str, torch.Tensor]] = []

    class Watched(transformers.Trainer):  # type: ignore[misc]  # untyped here
        def training_step(self, model: Any, inputs: Any, *rest: Any) -> Any:
            seen.append({key: value.clone() for key, value in inputs.items()})
            return super().training_step(model, inputs, *rest)

    trainer = made(Watched, folder)
    own = shutil.copytree(FOREIGN / "checkpoint-4", folder / "own")
    torch.save(trainer.args, own / "training_args.bin")
    trainer.train(resume_from_checkpoint=str(own))
    return seen, dict(trainer.model.state_dict())


def test_two_steps_more_give_the_weights_that_the_trainer_gets(tmp_path: Path) -> None:
    torch.set_num_threads(1)
    batches, expected = trained_by_the_trainer(tmp_path)
    repository = Repository.create(LocalStorage(tmp_path / "checkpoints", create=True))
    import_folder(repository, "bert", FOREIGN, only=["model", "optimizer", "scheduler"])
    trainer = made(transformers.Trainer, tmp_path)
    trainer.create_optimizer_and_scheduler(6)
    model, optimizer, scheduler = trainer.model, trainer.optimizer, trainer.lr_scheduler
    state = {"model": model, "optimizer": optimizer, "scheduler": scheduler}
    holdfast.load(tmp_path / "checkpoints", state, run="bert", at=4)
    model.train()
    for batch in batches:
        model(**batch).loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        scheduler.step()
        optimizer.zero_grad()
    assert all(torch.equal(model.state_dict()[name], tensor) for name, tensor in expected.items())
