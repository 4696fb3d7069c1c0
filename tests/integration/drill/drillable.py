"""A training to be drilled: python drillable.py FRAMEWORK [FLAW] [--steps N] [--seconds S]."""

from __future__ import annotations

import argparse
import random
import time
from collections.abc import Callable
from typing import Any

import numpy as np

import holdfast

Step = Callable[[int], Any]


def numpy_training(flaw: str) -> tuple[dict[str, Any], Step]:
    weights, velocity = np.zeros(20000), np.zeros(20000)
    state = {"weights": weights, "velocity": velocity}
    if flaw == "forgotten":
        del state["velocity"]

    def step(number: int) -> float:
        velocity[:] = 0.9 * velocity + np.random.standard_normal(20000)
        weights[:] += velocity
        return float(weights.sum())

    return state, step


def torch_training(flaw: str) -> tuple[dict[str, Any], Step]:
    import torch

    torch.manual_seed(0)
    torch.set_num_threads(1)
    model = torch.nn.Sequential(torch.nn.Linear(4, 8), torch.nn.Linear(8, 1))
    optimizer = torch.optim.AdamW(model.parameters(), lr=0.01)

    def step(number: int) -> Any:
        loss = model(torch.randn(3, 4)).square().mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        return loss

    return {"model": model, "optimizer": optimizer}, step


TRAININGS = {"numpy": numpy_training, "torch": torch_training}


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("framework", choices=TRAININGS)
    parser.add_argument("flaw", nargs="?", default="")
    parser.add_argument("--steps", type=int, default=40)
    parser.add_argument("--seconds", type=float, default=0.03)
    args = parser.parse_args()
    np.random.seed(0)
    random.seed(0)
    state, step = TRAININGS[args.framework](args.flaw)
    with holdfast.Checkpointer("my-own-place", state, run="drilled", save=None, keep="last 1") as ckpt:
        for number in ckpt.steps(args.steps):
            loss = step(number)
            time.sleep(args.seconds)
            ckpt.step(loss=loss)


if __name__ == "__main__":
    main()
