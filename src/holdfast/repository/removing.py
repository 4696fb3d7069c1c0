"""Removing what people ask to remove: one checkpoint, or a whole run, safe to kill at any point.

Manifests go first, oldest first, each condemned before; then the packs that nothing needs any more;
of a whole run then its records, attempts last. Killed half way, it is simply begun again.
"""

from __future__ import annotations

from collections.abc import Sequence

from holdfast.domain.names import CheckpointId
from holdfast.errors import DamagedError
from holdfast.repository import retention
from holdfast.repository.moving import files_beside
from holdfast.repository.run import Run


def obstacles(run: Run, drop: Sequence[CheckpointId]) -> list[str]:
    """Reasons, one sentence each, not to remove these checkpoints without being told twice."""
    gone = set(drop)
    found = [f"{run.name}@{c.step} is tagged {tag!r}." for tag, c in sorted(run.tags().items()) if c in gone]
    points = list(run.recovery_points())
    if points and gone.issuperset(points):
        found.append(f"{run.name} could not be resumed any more: no other recovery point is left.")
    return found


def remove_checkpoints(
    run: Run, drop: Sequence[CheckpointId], *, wait_seconds: float = 60.0
) -> retention.Pruned:
    """Remove checkpoints with their tags, and the packs set free; if that is busy, tags stay, too."""
    for checkpoint in drop:
        _settle(run, checkpoint)
    tags = {tag: checkpoint for tag, checkpoint in run.tags().items() if checkpoint in drop}

    def untag(checkpoint: CheckpointId) -> bool:
        for tag in [t for t, tagged in tags.items() if tagged == checkpoint]:
            run.storage.delete(run.layout.tag(tag))
            del tags[tag]
        return True

    return retention.remove(run, drop, may_delete=untag, wait_seconds=wait_seconds)


def remove_run(run: Run, *, wait_seconds: float = 60.0) -> retention.Pruned:
    """Remove a run with all that is recorded of it; where a grace must pass first, only condemn."""
    pruned = remove_checkpoints(run, run.all_checkpoints(), wait_seconds=wait_seconds)
    if pruned.busy or run.all_checkpoints():
        return pruned
    for key in files_beside(run):
        run.storage.delete(key)
    for marker in (run.layout.moving, run.layout.moved):
        run.storage.delete(marker)
    return pruned


def _settle(run: Run, checkpoint: CheckpointId) -> None:
    """Let a checkpoint go of which nobody knows any more what it needs."""
    try:
        retention.packs_of(run, checkpoint)
    except DamagedError:
        run.repository.marks[run.name, str(checkpoint)] = frozenset()
