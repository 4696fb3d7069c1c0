"""A training that resumes exactly, or not, as asked: python provable.py FRAMEWORK [FLAW] [--steps N]

It names a repository of its own, which a proof must leave alone.
"""

from __future__ import annotations

import argparse
import os
import random
import time
from collections.abc import Callable
from typing import Any

import numpy as np

import holdfast

Step = Callable[[Any], Any]


def torch_training(flaw: str) -> tuple[dict[str, Any], Step]:
    import torch

    if flaw != "unseeded":
        torch.manual_seed(0)
    torch.set_num_threads(1)
    model = torch.nn.Sequential(torch.nn.Linear(4, 8), torch.nn.Dropout(0.2), torch.nn.Linear(8, 1))
    optimizer = torch.optim.SGD(model.parameters(), lr=0.01, momentum=0.9)
    scheduler = torch.optim.lr_scheduler.StepLR(optimizer, step_size=7, gamma=0.5)

    def step(item: int) -> Any:
        loss = model(torch.randn(3, 4) + item).square().mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        scheduler.step()
        return loss

    return {"model": model, "optimizer": optimizer, "scheduler": scheduler}, step


def paddle_training(flaw: str) -> tuple[dict[str, Any], Step]:
    import paddle

    if flaw != "unseeded":
        paddle.seed(0)
    model = paddle.nn.Sequential(paddle.nn.Linear(4, 8), paddle.nn.Dropout(0.2), paddle.nn.Linear(8, 1))
    optimizer = paddle.optimizer.Momentum(0.01, 0.9, parameters=model.parameters())

    def step(item: int) -> Any:
        loss = model(paddle.randn([3, 4]) + item).square().mean()
        loss.backward()
        optimizer.step()
        optimizer.clear_grad()
        return loss

    return {"model": model} | ({} if flaw == "forgotten-optimizer" else {"optimizer": optimizer}), step


def numpy_training(flaw: str) -> tuple[dict[str, Any], Step]:
    if flaw != "unseeded":
        np.random.seed(1)
        random.seed(1)
    weights, velocity = np.zeros(50), np.zeros(50)
    began, averaged = time.time(), np.zeros(50)
    state: dict[str, Any] = {"weights": weights, "velocity": velocity, "averaged": averaged, "seconds": 0.0}
    if flaw == "forgotten-average":
        del state["averaged"]
    counted = 0
    own = np.random.default_rng(5)

    def step(item: int) -> float:
        nonlocal counted
        counted += 1
        noise = float(own.standard_normal()) if flaw == "own-generator" else 0.0
        loss = float(np.square(weights).sum()) + random.random() + noise
        velocity[:] = 0.9 * velocity + item + np.random.standard_normal(50)
        weights[:] -= 0.01 * velocity
        averaged[:] = averaged + 0.1 * weights
        if flaw == "forgotten-average" and counted % 5 == 0:
            weights[:] += averaged
        if flaw == "counter":
            state["seconds"] = float(counted)
        if flaw == "time":
            state["seconds"] = time.time() - began
        if flaw == "clock":
            weights[:] += time.time() * 1e-9
        return loss

    return state, step


TRAININGS = {"torch": torch_training, "paddle": paddle_training, "numpy": numpy_training}


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("framework", choices=TRAININGS)
    parser.add_argument("flaw", nargs="?", default="")
    parser.add_argument("--steps", type=int, default=20)
    args = parser.parse_args()
    if args.flaw == "fails":
        raise SystemExit("there are no data")
    if args.flaw == "no-loop":
        return
    state, step = TRAININGS[args.framework](args.flaw)
    order = list(range(8))
    resume = "must" if args.flaw == "must" else "auto"
    with holdfast.Checkpointer(
        "my-own-place", state, run="proved", save=None, keep="last 1", resume=resume
    ) as ckpt:
        if args.flaw == "fails-after-a-kill" and ckpt.restored is not None:
            raise SystemExit("it cannot be started twice")
        if args.flaw == "loader":
            random.shuffle(order)
            random.Random(os.urandom(8)).shuffle(order)
        for _ in ckpt.epochs(steps=args.steps):
            for item in ckpt.batches(order):
                loss = step(item)
                time.sleep(0.005)
                ckpt.step() if args.flaw == "no-loss" else ckpt.step(loss=loss)


if __name__ == "__main__":
    main()
