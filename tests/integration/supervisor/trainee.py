"""A small training, and what goes wrong in it: python trainee.py REPOSITORY [FAULT@STEP[xTIMES]] ...

Each fault happens so many times (once), counted in a file beside the repository, then no more;
``early@2`` is the second launch's, before it trains; ``after@1`` is slow once it has trained.
"""

from __future__ import annotations

import errno
import json
import os
import pdb
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

import holdfast

STEPS = int(os.environ.get("TRAINEE_STEPS", "40"))
WORK_SECONDS = float(os.environ.get("TRAINEE_WORK_SECONDS", "0"))
Train = Callable[[int], Any]
"""Makes one step; returns the loss."""
OPTIONS: dict[str, Any] = json.loads(os.environ.get("TRAINEE_OPTIONS", "{}"))
STEP_SECONDS = float(os.environ.get("TRAINEE_STEP_SECONDS", "0.005"))


def happens(place: Path, fault: str, step: int) -> bool:
    """Whether a fault asked for as ``name@step`` or ``name@stepxtimes`` happens now."""
    _, _, when = fault.partition("@")
    at, _, times = when.partition("x")
    count = place.with_name(f"{place.name}.{fault}")
    happened = int(count.read_text()) if count.exists() else 0
    if step != int(at) or happened >= int(times or 1):
        return False
    count.write_text(str(happened + 1))
    return True


def hang() -> None:
    while True:
        time.sleep(3600)


def devour() -> None:
    """Take memory until the kernel has enough of it."""
    taken = []
    while True:
        taken.append(os.urandom(1 << 24))


def spin() -> None:
    """Waits, but in a loop: it is never twice at the same line."""
    while True:
        time.sleep(0.037)
        sum(range(10))
        time.sleep(0.031)


def deaf() -> None:
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    hang()


def wait() -> None:
    time.sleep(float(os.environ["TRAINEE_SLOW_SECONDS"]))


class SlowSave:
    """Part of the state that takes its time to be saved, if asked to."""

    wanted = False

    def state_dict(self) -> dict[str, int]:
        if self.wanted:
            self.wanted = False
            wait()
        return {"nothing": 0}

    def load_state_dict(self, saved: dict[str, int]) -> None:
        pass


class Debugger(pdb.Pdb):
    """Waits for a person who is slow."""

    def cmdloop(self, intro: str | None = None) -> None:
        wait()
        self.set_continue()


LOSSES = {"loss": float("nan"), "high": 9.0}


def act(name: str) -> float | None:
    """Do it; a loss to report is returned."""
    actions = {
        "kill": lambda: os.kill(os.getpid(), signal.SIGKILL),
        "segv": lambda: os.kill(os.getpid(), signal.SIGSEGV),
        "term": lambda: os.kill(os.getpid(), signal.SIGTERM),
        "stop": lambda: os.kill(os.getppid(), signal.SIGTERM),
        "hang": hang,
        "devour": devour,
        "spin": spin,
        "deaf": deaf,
        "slow": wait,
        "debug": lambda: Debugger(nosigint=True).set_trace(),
        "exit3": lambda: os._exit(3),
    }
    errors = {
        "error": RuntimeError("the data are gone"),
        "memory": MemoryError("no room for 5 GiB"),
        "device": RuntimeError("CUDA out of memory. Tried to allocate 2 GiB"),
        "full": OSError(errno.ENOSPC, "No space left on device"),
        "import": ImportError("No module named 'nothing'"),
        "nan": FloatingPointError("overflow"),
    }
    if name in errors:
        raise errors[name]
    if name in LOSSES:
        return LOSSES[name]
    actions[name]()
    return None


def numpy_training() -> tuple[dict[str, Any], Train]:
    rng = np.random.default_rng(3)
    weights = rng.standard_normal(500)

    def train(item: int) -> float:
        nonlocal weights
        weights += rng.standard_normal(500) * item
        return 1.0

    return {"weights": weights, "rng": rng}, train


def torch_training() -> tuple[dict[str, Any], Train]:
    import torch

    torch.manual_seed(3)
    torch.set_num_threads(1)
    model = torch.nn.Sequential(torch.nn.Linear(8, 16), torch.nn.Dropout(0.3), torch.nn.Linear(16, 1))
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-2)

    def train(item: int) -> Any:
        loss = model(torch.randn(4, 8) + item).square().mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        return loss

    return {"model": model, "optimizer": optimizer}, train


def paddle_training() -> tuple[dict[str, Any], Train]:
    import paddle

    paddle.seed(3)
    model = paddle.nn.Sequential(paddle.nn.Linear(8, 16), paddle.nn.Dropout(0.3), paddle.nn.Linear(16, 1))
    optimizer = paddle.optimizer.AdamW(1e-2, parameters=model.parameters())

    def train(item: int) -> Any:
        loss = model(paddle.randn([4, 8]) + item).square().mean()
        loss.backward()
        optimizer.step()
        optimizer.clear_grad()
        return loss

    return {"model": model, "optimizer": optimizer}, train


TRAININGS = {"numpy": numpy_training, "torch": torch_training, "paddle": paddle_training}


def main(place: Path, faults: list[str]) -> None:
    launches = place.with_name(f"{place.name}.launches")
    number = int(launches.read_text()) + 1 if launches.exists() else 1
    launches.write_text(str(number))
    if f"early@{number}" in faults:
        sys.exit("the data set is not there")
    if "TRAINEE_CHILD" in os.environ:
        subprocess.Popen(["sleep", "600"])
    state, train = TRAININGS[os.environ.get("TRAINEE_FRAMEWORK", "numpy")]()
    state |= {"seen": [], "slow": (slow := SlowSave())}
    with holdfast.Checkpointer(
        place, state, run="digits", save="every 10 steps", keep="all", **OPTIONS
    ) as ckpt:
        for epoch in ckpt.epochs(steps=STEPS):
            for item in ckpt.batches(range(7)):
                if f"poison@{item}" in faults and epoch == 0:
                    raise ValueError(f"item {item} cannot be read")
                loss = train(item)
                state["seen"].append([epoch, item])
                time.sleep(WORK_SECONDS)
                step = ckpt.progress.step + 1
                now = [
                    f.partition("@")[0]
                    for f in faults
                    if f[:6] not in ("early@", "after@", "poison") and happens(place, f, step)
                ]
                slow.wanted = "slowsave" in now
                for name in set(now) - {"evaluate", "slowsave"}:
                    loss = act(name) or loss
                if ckpt.step(loss=loss) == 3:
                    print("trains", flush=True)
                if "evaluate" in now:
                    wait()
                time.sleep(STEP_SECONDS)
    if f"after@{number}" in faults:
        print("evaluates", flush=True)
        wait()


if __name__ == "__main__":
    main(Path(sys.argv[1]), sys.argv[2:])
