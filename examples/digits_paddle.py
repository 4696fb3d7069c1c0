"""Train a convolution net on scikit-learn's digits; kill it whenever you like, start it again."""

import argparse
import random
from unittest import mock

import numpy as np
import paddle
from paddle import nn
from paddle.io import DataLoader, Dataset
from sklearn.datasets import load_digits

import holdfast


class Digits(Dataset):
    """8x8 grey digits, shifted and made noisy at random: the data workers' own randomness."""

    def __init__(self, part: slice, augment: bool) -> None:
        super().__init__()
        digits = load_digits()
        self.images = digits.images[part, None].astype("float32") / 16
        self.labels = digits.target[part].astype("int64")
        self.augment = augment

    def __len__(self) -> int:
        return len(self.labels)

    def __getitem__(self, index: int) -> tuple[np.ndarray, np.int64, int]:
        image = self.images[index]
        if self.augment:
            shift = tuple(np.random.randint(-1, 2, size=2))
            image = np.roll(image, shift, axis=(1, 2)) + 0.1 * np.random.randn(1, 8, 8)
        return image.astype("float32"), self.labels[index], index


def build_model() -> nn.Layer:
    return nn.Sequential(
        nn.Conv2D(1, 32, 3, padding=1), nn.BatchNorm2D(32), nn.ReLU(),
        nn.Conv2D(32, 64, 3, padding=1), nn.BatchNorm2D(64), nn.ReLU(), nn.MaxPool2D(2),
        nn.Flatten(), nn.Dropout(0.3), nn.Linear(64 * 16, 10),
    )  # fmt: skip


def build_scaler() -> paddle.amp.GradScaler:
    """Build a loss scaler that works on a CPU too, where Paddle's constructor would switch it off."""
    with mock.patch("paddle.amp.grad_scaler.in_dynamic_mode", return_value=False):
        return paddle.amp.GradScaler(init_loss_scaling=1024, incr_every_n_steps=40)


@paddle.no_grad()
def evaluate(model: nn.Layer, loader: DataLoader) -> float:
    model.eval()
    losses = [nn.functional.cross_entropy(model(x), y) for x, y, _ in loader]
    model.train()
    return float(paddle.stack(losses).mean())


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--checkpoints", default="checkpoints")
    parser.add_argument("--run", default="digits")
    parser.add_argument("--epochs", type=int, default=6)
    parser.add_argument("--lr", type=float, default=2e-3)
    args = parser.parse_args()

    for seed in (random.seed, np.random.seed, paddle.seed):
        seed(0)
    train = DataLoader(Digits(slice(0, 1500), True), batch_size=32, shuffle=True, num_workers=2)
    valid = DataLoader(Digits(slice(1500, None), False), batch_size=256)
    model = build_model()
    scheduler = paddle.optimizer.lr.CosineAnnealingDecay(args.lr, T_max=args.epochs)
    optimizer = paddle.optimizer.AdamW(scheduler, parameters=model.parameters())
    scaler = build_scaler()
    on_gpu = paddle.is_compiled_with_cuda()

    history = []  # [step, loss, the samples of its batch]
    state = {
        "model": model, "optimizer": optimizer, "scheduler": scheduler, "scaler": scaler, "history": history,
    }  # fmt: skip
    with holdfast.Checkpointer(
        args.checkpoints, state, run=args.run, config={"lr": args.lr},
        save="every 10 steps", keep=holdfast.keep(last=3, best=1, monitor="val_loss"),
    ) as ckpt:  # fmt: skip
        for epoch in ckpt.epochs(args.epochs):
            for images, labels, indices in ckpt.batches(train):
                with paddle.amp.auto_cast(enable=on_gpu, dtype="float16"):
                    loss = nn.functional.cross_entropy(model(images), labels)
                scaler.scale(loss).backward()
                scaler.step(optimizer)
                scaler.update()
                optimizer.clear_grad()
                step = ckpt.step(loss=loss)
                history.append([step, loss.item(), indices.tolist()])
            scheduler.step()
            val_loss = evaluate(model, valid)
            ckpt.report(val_loss=val_loss)
            print(f"epoch {epoch}: step {ckpt.progress.step}, val_loss {val_loss:.4f}", flush=True)


if __name__ == "__main__":
    main()
