"""A rank without framework or collectives: PLACE, and faults as RANK:STEP:WHAT, each happening once."""

from __future__ import annotations

import os
import random
import signal
import sys
import time
from pathlib import Path

import numpy as np

import holdfast

STEPS = 30


def happen(fault: str) -> None:
    what = fault.rpartition(":")[2]
    marker = Path(f"happened-{fault.replace(':', '-')}")
    if marker.exists():
        return
    marker.touch()
    if what == "wait":
        time.sleep(1.0)
        return
    os.kill(os.getppid() if what == "launcher" else os.getpid(), signal.SIGKILL)
    time.sleep(1.0)  # the supervisor looks five times a second


def main(place: str, *faults: str) -> None:
    rank = int(os.environ.get("RANK") or os.environ["PADDLE_TRAINER_ID"])
    random.seed(rank)
    np.random.seed(rank)
    state = {"shared": np.zeros(3000), "own": np.zeros(10)}
    with holdfast.Checkpointer(place, state, save="every 5 steps", keep="last 100") as ckpt:
        for t in ckpt.steps(STEPS):
            state["shared"] += np.arange(3000) * t
            state["own"] += random.random() + np.random.rand()
            time.sleep(0.01)
            for fault in faults:
                if fault.startswith(f"{rank}:{t}:"):
                    happen(fault)


if __name__ == "__main__":
    main(*sys.argv[1:])
