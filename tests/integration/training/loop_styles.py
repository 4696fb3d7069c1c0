"""Ways in which people write training loops; each function trains a tiny model to the end."""

from __future__ import annotations

import random
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn
from torch.utils.data import DataLoader, Dataset

import holdfast

SAVE = "every 1 steps"


class Noisy(Dataset[tuple[torch.Tensor, int]]):
    """Samples with randomness of their own, drawn where they are loaded."""

    def __len__(self) -> int:
        return 11

    def __getitem__(self, index: int) -> tuple[torch.Tensor, int]:
        noise = random.random() + float(np.random.rand())
        return torch.full((4,), float(index)) + 0.1 * torch.rand(4) + noise, index


def parts(seed: int = 0) -> dict[str, Any]:
    torch.manual_seed(seed)
    random.seed(seed)
    np.random.seed(seed)
    model = nn.Sequential(nn.Linear(4, 8), nn.BatchNorm1d(8), nn.Dropout(0.5), nn.Linear(8, 1))
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-2)
    scheduler = torch.optim.lr_scheduler.StepLR(optimizer, step_size=3, gamma=0.5)
    return {"model": model, "optimizer": optimizer, "scheduler": scheduler, "seen": []}


def loader(**options: Any) -> DataLoader[Any]:
    return DataLoader(Noisy(), batch_size=3, shuffle=True, **options)


def loss_of(model: nn.Module, batch: Any) -> torch.Tensor:
    return model(batch[0]).square().mean()


def learn(state: dict[str, Any], batch: Any) -> torch.Tensor:
    loss = loss_of(state["model"], batch)
    state["optimizer"].zero_grad()
    loss.backward()
    state["optimizer"].step()
    state["seen"].append([loss.item(), *batch[1].tolist()])
    return loss


def evaluate(model: nn.Module) -> float:
    model.eval()
    with torch.no_grad():
        value = sum(loss_of(model, batch).item() for batch in DataLoader(Noisy(), batch_size=6))
    model.train()
    return value


def plain(repository: Path) -> None:
    state = parts()
    with holdfast.Checkpointer(repository, state, save=SAVE) as ckpt:
        for _ in ckpt.epochs(2):
            for batch in ckpt.batches(loader()):
                loss = learn(state, batch)
                ckpt.step(loss=loss)
            state["scheduler"].step()


def scheduler_before_step(repository: Path) -> None:
    state = parts()
    with holdfast.Checkpointer(repository, state, save="every 2 steps") as ckpt:
        for _ in ckpt.epochs(2):
            for batch in ckpt.batches(loader()):
                loss = learn(state, batch)
                state["scheduler"].step()
                ckpt.step(loss=loss)


def scheduler_after_step(repository: Path) -> None:
    state = parts()
    with holdfast.Checkpointer(repository, state, save="every 2 steps") as ckpt:
        for _ in ckpt.epochs(2):
            for batch in ckpt.batches(loader()):
                loss = learn(state, batch)
                ckpt.step(loss=loss)
                state["scheduler"].step()
                state["seen"].append(random.random())


def evaluation_in_mid_epoch(repository: Path) -> None:
    state = parts()
    keep = holdfast.keep(last=2, best=1, monitor="val_loss")
    with holdfast.Checkpointer(repository, state, save=None, keep=keep) as ckpt:
        for _ in ckpt.epochs(2):
            for batch in ckpt.batches(loader()):
                step = ckpt.step(loss=learn(state, batch))
                if step % 2 == 0:
                    ckpt.report(val_loss=evaluate(state["model"]))
            state["scheduler"].step()
            ckpt.report(val_loss=evaluate(state["model"]))


def accumulation(repository: Path) -> None:
    """Groups of two over four batches... and a leftover group where the number is odd."""
    state = parts()
    with holdfast.Checkpointer(repository, state, save=SAVE) as ckpt:
        for _ in ckpt.epochs(3):
            for number, batch in enumerate(ckpt.batches(loader(drop_last=True)), start=ckpt.progress.batch):
                loss_of(state["model"], batch).backward()
                state["seen"].append(batch[1].tolist())
                if number % 2 == 1:
                    state["optimizer"].step()
                    state["optimizer"].zero_grad()
                    ckpt.step()
            state["scheduler"].step()


def accumulation_counted_wrong(repository: Path) -> None:
    """`step()` at every batch, although the optimizer steps at every second one."""
    state = parts()
    with holdfast.Checkpointer(repository, state, save=SAVE) as ckpt:
        for _ in ckpt.epochs(2):
            for batch in ckpt.batches(loader()):
                loss_of(state["model"], batch).backward()
                state["seen"].append(batch[1].tolist())
                if ckpt.step() % 2 == 0:
                    state["optimizer"].step()
                    state["optimizer"].zero_grad()


def two_optimizers(repository: Path) -> None:
    state = parts()
    critic = nn.Linear(1, 1)
    state |= {
        "critic": critic,
        "critic_optimizer": torch.optim.SGD(critic.parameters(), lr=0.1, momentum=0.9),
    }
    with holdfast.Checkpointer(repository, state, save=SAVE) as ckpt:
        for _ in ckpt.epochs(2):
            for batch in ckpt.batches(loader()):
                made = state["model"](batch[0])
                judged = critic(made.detach()).square().mean()
                state["critic_optimizer"].zero_grad()
                judged.backward()
                state["critic_optimizer"].step()
                loss = -critic(made).mean()
                state["optimizer"].zero_grad()
                loss.backward()
                state["optimizer"].step()
                state["seen"].append([judged.item(), loss.item()])
                ckpt.step(loss=loss)


def no_loader(repository: Path) -> None:
    """Reinforcement learning: the environment's state is part of the training state."""
    state = parts()
    state["environment"] = np.random.default_rng(7)
    with holdfast.Checkpointer(repository, state, save="every 2 steps") as ckpt:
        for _ in ckpt.steps(8):
            seen = torch.tensor(state["environment"].normal(size=(3, 4)), dtype=torch.float32)
            learn(state, (seen, torch.tensor([0])))


def own_while_loop(repository: Path) -> None:
    state = parts()
    state["order"] = random.Random(3)
    with holdfast.Checkpointer(repository, state, save=SAVE) as ckpt:
        while ckpt.progress.step < 8:
            samples = [Noisy()[state["order"].randrange(11)] for _ in range(3)]
            loss = learn(state, (torch.stack([s for s, _ in samples]), torch.tensor([i for _, i in samples])))
            state["scheduler"].step()
            ckpt.step(loss=loss)


def own_epoch_loop(repository: Path) -> None:
    state = parts()
    with holdfast.Checkpointer(repository, state, save=SAVE) as ckpt:
        for _ in range(ckpt.progress.epoch, 2):
            for batch in ckpt.batches(loader()):
                ckpt.step(loss=learn(state, batch))
            state["scheduler"].step()


def nested_loops(repository: Path) -> None:
    """Tasks, and batches of each task: a turn of the outer loop is what is settled."""
    state = parts()
    with holdfast.Checkpointer(repository, state, save=SAVE) as ckpt:
        for _ in ckpt.epochs(2):
            for task in ckpt.batches([10.0, 20.0, 30.0]):
                for batch in ckpt.batches(loader()):
                    loss = learn(state, (batch[0] * task, batch[1]))
                    ckpt.step(loss=loss)


def two_loaders_in_turn(repository: Path) -> None:
    state = parts()
    with holdfast.Checkpointer(repository, state, save=SAVE) as ckpt:
        for _ in ckpt.epochs(2):
            random.random()
            for batch in ckpt.batches(loader()):
                ckpt.step(loss=learn(state, batch))
            for batch in ckpt.batches(loader(drop_last=True)):
                ckpt.step(loss=learn(state, batch))


def early_stop(repository: Path) -> None:
    state = parts()
    with holdfast.Checkpointer(repository, state, save=SAVE) as ckpt:
        for epoch in ckpt.epochs(5):
            for batch in ckpt.batches(loader()):
                ckpt.step(loss=learn(state, batch))
            state["scheduler"].step()
            if epoch == 1:
                ckpt.stop("patience is over")


def break_out_of_batches(repository: Path) -> None:
    state = parts()
    with holdfast.Checkpointer(repository, state, save=SAVE) as ckpt:
        for _ in ckpt.epochs(3):
            for number, batch in enumerate(ckpt.batches(loader()), start=ckpt.progress.batch):
                ckpt.step(loss=learn(state, batch))
                if number == 1:
                    break
            state["scheduler"].step()


def until_a_number_of_steps(repository: Path) -> None:
    state = parts()
    with holdfast.Checkpointer(repository, state, save=SAVE) as ckpt:
        for _ in ckpt.epochs(steps=7):
            for batch in ckpt.batches(loader()):
                ckpt.step(loss=learn(state, batch))


def code_before_batches(repository: Path) -> None:
    """Randomness between the epoch's start and its batches runs again alike."""
    state = parts()
    with holdfast.Checkpointer(repository, state, save=SAVE) as ckpt:
        for _ in ckpt.epochs(2):
            scale = 1 + random.random() + float(torch.rand(()))
            for batch in ckpt.batches(loader()):
                ckpt.step(loss=learn(state, (batch[0] * scale, batch[1])))


ALL = [
    plain,
    scheduler_before_step,
    scheduler_after_step,
    evaluation_in_mid_epoch,
    accumulation,
    accumulation_counted_wrong,
    two_optimizers,
    no_loader,
    own_while_loop,
    own_epoch_loop,
    nested_loops,
    two_loaders_in_turn,
    early_stop,
    break_out_of_batches,
    until_a_number_of_steps,
    code_before_batches,
]
