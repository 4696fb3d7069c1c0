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
MADE = Path("/tmp/foreign")
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


def make_distributed(rank: int, place: Path) -> None:
    """Two ranks, each with its part of the weights."""
    import torch.distributed as dist
    import torch.distributed.checkpoint as dcp
    from torch.distributed.tensor import Shard, distribute_tensor

    where = f"file://{place.parent}/rendezvous"
    dist.init_process_group("gloo", init_method=where, rank=rank, world_size=2)
    mesh = dist.init_device_mesh("cpu", (2,))
    torch.manual_seed(3)
    whole = {"w": torch.randn(5, 3), "v": torch.randn(7).to(torch.bfloat16)}
    model: dict[str, object] = {name: distribute_tensor(t, mesh, [Shard(0)]) for name, t in whole.items()}
    model["all"] = torch.arange(4)
    dcp.save({"model": model, "step": 30}, checkpoint_id=str(place))
    dist.destroy_process_group()


def main() -> None:
    """Made elsewhere: some of these files tell where they were made."""
    MADE.mkdir()
    make_trainer(MADE / "trainer")
    make_lightning(MADE / "lightning")
    torch.multiprocessing.spawn(make_distributed, (MADE / "distributed" / "step-30",), nprocs=2)
    (MADE / "distributed" / "rendezvous").unlink(missing_ok=True)
    for made in MADE.iterdir():
        shutil.rmtree(HERE / made.name, ignore_errors=True)
        shutil.move(made, HERE)
    MADE.rmdir()


if __name__ == "__main__":
    sys.exit(main())
