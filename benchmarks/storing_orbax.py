"""Orbax as it is: OCDBT with zstd."""

from __future__ import annotations

import ml_dtypes
import numpy as np
import orbax.checkpoint as orbax
from measure import make_durable
from storing_trajectory import Kind
from storing_way import Way


class Orbax(Way):
    """It fsyncs its arrays; what it wrote is fsynced again, for the sake of the folders that it renames."""

    def save(self, number: int) -> None:
        folder = self.folder.resolve() / str(number)
        with orbax.StandardCheckpointer() as checkpointer:
            checkpointer.save(folder, {kind.name: self._array(kind) for kind in self.kinds})
        make_durable(folder)

    def restore(self, number: int) -> None:
        with orbax.StandardCheckpointer() as checkpointer:
            like = {kind.name: self._array(kind) for kind in self.kinds}
            found = checkpointer.restore(self.folder.resolve() / str(number), like)
        for kind in self.kinds:
            self._array(kind)[...] = found[kind.name]

    def _array(self, kind: Kind) -> np.ndarray:
        """The live memory, as an array."""
        return self.live[kind.name].view(_dtype(kind.dtype)).reshape(kind.shape)


def _dtype(name: str) -> np.dtype:
    return np.dtype(ml_dtypes.bfloat16 if name == "bfloat16" else name)
