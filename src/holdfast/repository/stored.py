"""Tensors of committed checkpoints, as sources of others'."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from holdfast.domain.manifest import Manifest
from holdfast.domain.names import CheckpointId
from holdfast.domain.tensors import TensorSpec
from holdfast.errors import DamagedError, NotFoundError, SignatureError, StorageError
from holdfast.repository.reading import read_tensors
from holdfast.repository.run import Run
from holdfast.repository.signatures import trusted_manifest

if TYPE_CHECKING:
    import numpy as np
    import numpy.typing as npt


class MemoryTarget:
    """Keeps a tensor's bytes in memory of its own."""

    def __init__(self, spec: TensorSpec) -> None:
        import numpy as np

        self.spec = spec
        self._bytes = np.empty(spec.size_bytes, np.uint8)

    def buffer(self) -> npt.NDArray[np.uint8]:
        return self._bytes

    def commit(self) -> None:
        """Nothing to move: the bytes are where they belong."""


class StoredTensor:
    """A tensor of a checkpoint whose manifest was read, verified as it is read."""

    def __init__(self, run: Run, manifest: Manifest, hints: Sequence[str], name: str) -> None:
        self._run = run
        self._manifest = manifest
        self._hints = hints
        self._name = name
        self.spec = manifest.tensors[name].spec

    def read(self) -> npt.NDArray[np.uint8]:
        target = MemoryTarget(self.spec)
        reader = self._run.repository.reader
        what = f"{self._run.name}@{self._manifest.summary.progress.step}"
        read_tensors(reader, self._manifest, self._hints, [(self._name, target)], what)
        return target.buffer()


class ParentsTensor:
    """A tensor that a snapshot was taken without, as the parent has the same.

    As a rule it is never read: the new checkpoint relies on the packs of the old one. But these may be
    going, and what takes their place may not be known yet.
    """

    def __init__(self, run: Run, parent: CheckpointId, name: str, spec: TensorSpec) -> None:
        self._run = run
        self._parent = parent
        self._name = name
        self.spec = spec

    def read(self) -> npt.NDArray[np.uint8]:
        try:
            manifest = trusted_manifest(self._run, self._parent)
            return StoredTensor(self._run, manifest, self._run.hints(self._parent), self._name).read()
        except (DamagedError, NotFoundError, SignatureError) as error:
            raise StorageError(
                f"{self._name} was the same in {self._run.name}@{self._parent.step}, so that the snapshot "
                f"was taken without it, and cannot be read there any more: {error.what}",
                do="The next save holds all of it again.",
            ) from error
