"""Checkpoints of a real training as plain files, so that whoever stores them stores the very same bytes.

``python storing_trajectory.py MODE SPACING COUNT SIZE FOLDER`` trains and writes
``FOLDER/NUMBER.tensors``, the raw bytes of all tensors one behind the other, from number 1 on, and
``FOLDER/trajectory.json``, which says what lies where.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import NamedTuple

import numpy as np

INDEX = "trajectory.json"
Live = dict[str, np.ndarray]
"""Bytes of every tensor, by name; overwritten in place by the next checkpoint."""


class Kind(NamedTuple):
    """What a tensor is, besides its bytes; dtypes as PyTorch names them."""

    name: str
    dtype: str
    shape: tuple[int, ...]
    size_bytes: int


class Trajectory:
    """A folder of checkpoints."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        index = json.loads((folder / INDEX).read_text())
        self.count: int = index["count"]
        self.kinds = [Kind(name, dtype, tuple(shape), size) for name, dtype, shape, size in index["tensors"]]
        self.state_bytes = sum(kind.size_bytes for kind in self.kinds)

    def live(self) -> Live:
        """Memory for one checkpoint; each tensor has its own, as in a training."""
        return {kind.name: np.zeros(kind.size_bytes, np.uint8) for kind in self.kinds}

    def read(self, number: int, live: Live) -> None:
        with self._file(number).open("rb", buffering=0) as file:
            for array in live.values():
                file.readinto(array.data)

    def differing(self, number: int, live: Live, beginning: str) -> list[str]:
        """Those of the tensors with this beginning of a name that are not, bit for bit, this checkpoint's."""
        true = self.live()
        self.read(number, true)
        return [n for n in live if n.startswith(beginning) and not np.array_equal(live[n], true[n])]

    def _file(self, number: int) -> Path:
        return self._folder / f"{number:06}.tensors"


def make(mode: str, spacing: int, count: int, size: str, folder: Path) -> None:
    """Train, and write a checkpoint every ``spacing`` steps."""
    import torch
    from storing_models import MODES

    folder.mkdir(parents=True)
    learner = MODES[mode](size)
    for number in range(1, count + 1):
        for _ in range(spacing):
            learner.step()
        with (folder / f"{number:06}.tensors").open("wb") as file:
            for tensor in learner.tensors().values():
                file.write(tensor.contiguous().reshape(-1).view(torch.uint8).numpy().data)
    kinds = [
        Kind(name, str(tensor.dtype).removeprefix("torch."), tuple(tensor.shape), tensor.nbytes)
        for name, tensor in learner.tensors().items()
    ]
    (folder / INDEX).write_text(json.dumps({"count": count, "tensors": kinds}))


if __name__ == "__main__":
    make(sys.argv[1], int(sys.argv[2]), int(sys.argv[3]), sys.argv[4], Path(sys.argv[5]))
