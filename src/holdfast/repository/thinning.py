"""Thin checkpoints: the model alone, committed as a manifest of its own before the full one goes."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from holdfast.domain import tree
from holdfast.domain.manifest import TensorEntry
from holdfast.domain.names import CheckpointId
from holdfast.domain.tensors import TensorSpec
from holdfast.repository.commit import Draft, commit
from holdfast.repository.reading import read_tensors
from holdfast.repository.run import Run

if TYPE_CHECKING:
    import numpy as np
    import numpy.typing as npt


class StoredTensor:
    """A tensor of a committed checkpoint, as the source of another checkpoint's."""

    def __init__(self, run: Run, checkpoint: CheckpointId, name: str, entry: TensorEntry) -> None:
        self._run = run
        self._checkpoint = checkpoint
        self._name = name
        self.spec = entry.spec

    def read(self) -> npt.NDArray[np.uint8]:
        target = _Memory(self.spec)
        manifest = self._run.manifest(self._checkpoint)
        reader = self._run.repository.reader
        what = f"{self._run.name}@{self._checkpoint.step}"
        read_tensors(reader, manifest, self._run.hints(self._checkpoint), [(self._name, target)], what)
        return target.buffer()


class _Memory:
    def __init__(self, spec: TensorSpec) -> None:
        import numpy as np

        self.spec = spec
        self._bytes = np.empty(spec.size_bytes, np.uint8)

    def buffer(self) -> npt.NDArray[np.uint8]:
        return self._bytes

    def commit(self) -> None:
        """Nothing to move: the bytes are where they belong."""


def make_thin(run: Run, checkpoint: CheckpointId, keeps: Callable[[Any], bool]) -> bool:
    """Commit a thin copy of a full checkpoint, in packs of its own so that the rest can go.

    Parameters
    ----------
    keeps : callable
        Which top-level entries of the state stay.

    Returns
    -------
    bool
        Whether a thin copy stands; False if nothing in it is to be kept.
    """
    if any(_is_thin_of(c, checkpoint) for c in run.checkpoints()):
        return True
    manifest = run.manifest(checkpoint)
    kept = {key: value for key, value in tree.decode(manifest.details.tree).items() if keeps(value)}
    names = {ref.name for ref in tree.references(kept)}
    if not kept:
        return False
    summary = manifest.summary
    draft = Draft(
        attempt=summary.attempt,
        sequence=summary.sequence,
        progress=summary.progress,
        reason=f"thinned: {summary.reason}",
        sources={n: StoredTensor(run, checkpoint, n, e) for n, e in manifest.tensors.items() if n in names},
        tree=kept,
        metrics=summary.metrics,
        parent=CheckpointId.parse(summary.parent) if summary.parent is not None else None,
        kind="thin",
        done=summary.done,
        monitor=summary.monitor,
        environment=manifest.details.environment,
    )
    commit(run, draft, dedup=False)
    return True


def _is_thin_of(candidate: CheckpointId, full: CheckpointId) -> bool:
    same = (candidate.attempt, candidate.sequence, candidate.step) == (full.attempt, full.sequence, full.step)
    return same and candidate.kind == "thin"
