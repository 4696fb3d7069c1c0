"""Thin checkpoints: the model alone, committed as a manifest of its own before the full one goes."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import suppress
from typing import Any

from holdfast.domain import tree
from holdfast.domain.names import CheckpointId
from holdfast.errors import DamagedError, NotFoundError
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
        Whether a thin copy stands; False if nothing in it is to be kept, or if the copy is damaged.
    """
    if there := [c for c in run.checkpoints() if _is_thin_of(c, checkpoint)]:
        return not run.rejected().issuperset(map(str, there))
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
        saved_seconds=summary.saved_seconds,
    )
    commit(run, draft, dedup=False)
    return True


def can_be_thin(run: Run, checkpoint: CheckpointId, keeps: Callable[[Any], bool]) -> bool:
    """Whether anything in it is to be kept; also where its manifest cannot be read, as `make_thin` raises."""
    with suppress(DamagedError, NotFoundError):
        return any(map(keeps, tree.decode(run.manifest(checkpoint).details.tree).values()))
    return True


def _is_thin_of(candidate: CheckpointId, full: CheckpointId) -> bool:
    same = (candidate.attempt, candidate.sequence, candidate.step) == (full.attempt, full.sequence, full.step)
    return same and candidate.kind == "thin"
