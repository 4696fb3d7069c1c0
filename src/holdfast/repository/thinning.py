"""Thin checkpoints: the model alone, committed as a manifest of its own before the full one goes."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

from holdfast.domain import tree
from holdfast.domain.names import CheckpointId
from holdfast.repository.commit import Draft, commit
from holdfast.repository.run import Run
from holdfast.repository.signatures import trusted_manifest
from holdfast.repository.stored import StoredTensor


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
    rejected = run.rejected()
    if any(_is_thin_of(c, checkpoint) and str(c) not in rejected for c in run.checkpoints()):
        return True
    manifest, hints = trusted_manifest(run, checkpoint), run.hints(checkpoint)
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
        sources={n: StoredTensor(run, manifest, hints, n) for n in manifest.tensors if n in names},
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


def without_copies(drop: Iterable[CheckpointId], thin: Iterable[CheckpointId]) -> list[CheckpointId]:
    """Those to be dropped, but no copy of what is to be made thin: the full one goes, and it stays."""
    saves = {full.identity[:-1] for full in thin}
    return [c for c in drop if c.kind != "thin" or c.identity[:-1] not in saves]


def _is_thin_of(candidate: CheckpointId, full: CheckpointId) -> bool:
    same = (candidate.attempt, candidate.sequence, candidate.step) == (full.attempt, full.sequence, full.step)
    return same and candidate.kind == "thin"
