"""Makes the folders beside it with the libraries themselves: ``python make_fixtures.py``.

Needs transformers, accelerate and lightning, which the tests do not.
"""

from __future__ import annotations

import shutil
import sys
from pathlib import Path

import torch
from torch import nn

HERE = Path(__file__).parent
STEPS = 6


def make_trainer(place: Path) -> None:
    from transformers import BertConfig, BertForSequenceClassification, Trainer, TrainingArguments, set_seed

    set_seed(3)
    config = BertConfig(
        vocab_size=13,
        hidden_size=8,
        num_hidden_layers=1,
        num_attention_heads=2,
        intermediate_size=8,
        max_position_embeddings=8,
        num_labels=3,
    )
    model = BertForSequenceClassification(config)
    data = [{"input_ids": [i % 13, (3 * i) % 13, 1], "labels": i % 3} for i in range(24)]
    arguments = TrainingArguments(
        str(place),
        per_device_train_batch_size=4,
        max_steps=STEPS,
        save_steps=2,
        logging_steps=1,
        eval_strategy="steps",
        eval_steps=2,
        learning_rate=1e-2,
        warmup_steps=2,
        report_to=[],
        use_cpu=True,
        disable_tqdm=True,
        dataloader_pin_memory=False,
    )
    trainer = Trainer(model=model, args=arguments, train_dataset=data, eval_dataset=data[:8])
    trainer.train()
    for file in place.glob("checkpoint-*/training_args.bin"):
        file.write_bytes(b"never read")  # a pickle of a class, which no test may depend on


def make_lightning(place: Path) -> None:
    import lightning
    from lightning.pytorch.callbacks import ModelCheckpoint

    class Net(lightning.LightningModule):
        def __init__(self) -> None:
            super().__init__()
            self.layer = nn.Linear(3, 2)
            self.save_hyperparameters({"width": 3})

        def training_step(self, batch: torch.Tensor) -> torch.Tensor:
            loss = self.layer(batch).square().mean()
            self.log("loss", loss)
            return loss

        def configure_optimizers(self) -> dict[str, object]:
            optimizer = torch.optim.AdamW(self.parameters(), lr=0.1)
            return {
                "optimizer": optimizer,
                "lr_scheduler": torch.optim.lr_scheduler.StepLR(optimizer, 1),
            }

    lightning.seed_everything(3)
    loader = torch.utils.data.DataLoader(torch.randn(8, 3), batch_size=2)
    keeper = ModelCheckpoint(place, monitor="loss", save_top_k=-1, save_last=True)
    loop = lightning.Trainer(
        max_epochs=3, callbacks=[keeper], logger=False, accelerator="cpu", enable_progress_bar=False,
        log_every_n_steps=1, enable_model_summary=False,
    )  # fmt: skip
    loop.fit(Net(), loader)


def main() -> None:
    for name in ("trainer", "lightning"):
        shutil.rmtree(HERE / name, ignore_errors=True)
    make_trainer(HERE / "trainer")
    make_lightning(HERE / "lightning")


if __name__ == "__main__":
    sys.exit(main())
