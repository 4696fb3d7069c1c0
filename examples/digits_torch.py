"""Train a convolution net on scikit-learn's digits; kill it whenever you like, start it again."""

import argparse
import random

import numpy as np
import torch
from sklearn.datasets import load_digits
from torch import nn
from torch.utils.data import DataLoader, Dataset

import holdfast


class Digits(Dataset):
    """8x8 grey digits, shifted and made noisy at random: the data workers' own randomness."""

    def __init__(self, part: slice, augment: bool) -> None:
        digits = load_digits()
        self.images = torch.tensor(digits.images[part], dtype=torch.float32).unsqueeze(1) / 16
        self.labels = torch.tensor(digits.target[part])
        self.augment = augment

    def __len__(self) -> int:
        return len(self.labels)

    def __getitem__(self, index: int) -> tuple[torch.Tensor, torch.Tensor, int]:
        image = self.images[index]
        if self.augment:
            shift = torch.randint(-1, 2, (2,)).tolist()
            image = image.roll(shift, dims=(1, 2)) + 0.1 * torch.randn_like(image)
        return image, self.labels[index], index


def build_model() -> nn.Module:
    return nn.Sequential(
        nn.Conv2d(1, 32, 3, padding=1), nn.BatchNorm2d(32), nn.ReLU(),
        nn.Conv2d(32, 64, 3, padding=1), nn.BatchNorm2d(64), nn.ReLU(), nn.MaxPool2d(2),
        nn.Flatten(), nn.Dropout(0.3), nn.Linear(64 * 16, 10),
    )  # fmt: skip


@torch.no_grad()
def evaluate(model: nn.Module, loader: DataLoader) -> float:
    model.eval()
    losses = [nn.functional.cross_entropy(model(x), y) for x, y, _ in loader]
    model.train()
    return float(torch.stack(losses).mean())


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--checkpoints", default="checkpoints")
    parser.add_argument("--run", default="digits")
    parser.add_argument("--epochs", type=int, default=6)
    parser.add_argument("--lr", type=float, default=2e-3)
    args = parser.parse_args()

    for seed in (random.seed, np.random.seed, torch.manual_seed):
        seed(0)
    torch.set_num_threads(1)
    train = DataLoader(Digits(slice(0, 1500), True), batch_size=32, shuffle=True, num_workers=2)
    valid = DataLoader(Digits(slice(1500, None), False), batch_size=256)
    model = build_model()
    optimizer = torch.optim.AdamW(model.parameters(), lr=args.lr)
    scheduler = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, T_max=args.epochs)

    history = []  # [step, loss, the samples of its batch]
    state = {"model": model, "optimizer": optimizer, "scheduler": scheduler, "history": history}
    with holdfast.Checkpointer(
        args.checkpoints, state, run=args.run, config={"lr": args.lr},
        save="every 10 steps", keep=holdfast.keep(last=3, best=1, monitor="val_loss"),
    ) as ckpt:  # fmt: skip
        for epoch in ckpt.epochs(args.epochs):
            for images, labels, indices in ckpt.batches(train):
                loss = nn.functional.cross_entropy(model(images), labels)
                optimizer.zero_grad()
                loss.backward()
                optimizer.step()
                step = ckpt.step(loss=loss)
                history.append([step, loss.item(), indices.tolist()])
            scheduler.step()
            val_loss = evaluate(model, valid)
            ckpt.report(val_loss=val_loss)
            print(f"epoch {epoch}: step {ckpt.progress.step}, val_loss {val_loss:.4f}", flush=True)


if __name__ == "__main__":
    main()
