"""A run that begins where another one was: a manifest of its own, and no chunk is copied.

The fork's attempt and how it came about are recorded first; the manifest comes last, and makes the
fork. Killed before that, the same fork is simply begun again.
"""

from __future__ import annotations

import time

import msgspec

from holdfast.domain.manifest import Manifest
from holdfast.domain.names import CheckpointId
from holdfast.errors import DamagedError, NotFoundError, UsageError
from holdfast.repository import records
from holdfast.repository.adopting import Origin, adopt
from holdfast.repository.commit import Committed
from holdfast.repository.moving import MovingRecord
from holdfast.repository.retention import packs_of
from holdfast.repository.run import Run
from holdfast.repository.signatures import trusted_manifest

FORK_CAUSE = "forked from "
"""Begins the end of the attempt that a fork opened."""


def fork(run: Run, checkpoint: CheckpointId, name: str) -> Committed:
    """Let a new run of this name begin with a checkpoint of this one.

    The caller sees to it that nobody launches the new run meanwhile.

    Raises
    ------
    UsageError
        There is such a run already, or no run can go on from this checkpoint.
    DamagedError
        The manifest is damaged, or chunks of it are in no pack.
    NotFoundError
        The checkpoint was removed meanwhile.
    """
    target = run.repository.run(name)
    check_resumable(run, checkpoint)
    _check_free(target)
    try:
        return _fork(run, checkpoint, target)
    except (DamagedError, NotFoundError) as error:
        if run.storage.stat(run.layout.checkpoint(checkpoint)) is not None:
            raise
        raise NotFoundError(
            f"{run.name}@{checkpoint.step} was removed meanwhile, perhaps by the keep rule of a live run.",
            do="Fork from another one: 'holdfast ls' shows which.",
        ) from error


def _fork(run: Run, checkpoint: CheckpointId, target: Run) -> Committed:
    manifest = trusted_manifest(run, checkpoint)
    _rely_on(run, checkpoint, manifest)
    cause = f"{FORK_CAUSE}{run.name}@{checkpoint.step}"
    attempt = target.begin_attempt()
    target.record_end(attempt, cause, checkpoint.step, done=manifest.summary.done)
    target.record_origin(attempt, checkpoint)
    summary = msgspec.structs.replace(
        manifest.summary,
        attempt=attempt,
        sequence=1,
        parent=str(checkpoint),
        saved_seconds=time.time(),
        reason=cause,
    )
    origin = Origin(run, checkpoint, run.repository.index, run.repository.reader)
    return adopt(target, msgspec.structs.replace(manifest, summary=summary), origin)


def check_resumable(run: Run, checkpoint: CheckpointId) -> None:
    """Refuse a checkpoint that no run can go on from.

    Raises
    ------
    UsageError
        It is thin, or rejected.
    """
    name = f"{run.name}@{checkpoint.step}"
    if checkpoint.kind != "full":
        raise UsageError(
            f"{name} holds the model only, so no run can go on from it.", do="Choose a full one."
        )
    if str(checkpoint) in run.rejected():
        raise UsageError(f"{name} is rejected as damaged.", do="Choose another: 'holdfast ls' shows which.")


def _check_free(target: Run) -> None:
    """Refuse a name that is taken; what a fork that was killed has left there takes none."""
    is_moving = records.read_or_none(target.storage, target.layout.moving, MovingRecord) is not None
    ends = target.ends()
    begun = {a for a, end in ends.items() if end.cause.startswith(FORK_CAUSE)}
    trained = any(a.based and a.id not in begun for a in target.attempts())
    if is_moving or trained or target.all_checkpoints():
        raise UsageError(f"There is a run {target.name} already.", do="Choose a free name.")


def _rely_on(run: Run, checkpoint: CheckpointId, manifest: Manifest) -> None:
    """Let the new manifest rely on the packs of the old one, before anything is recorded."""
    repository = run.repository
    condemned = repository.condemned_packs().keys()
    repository.dependable |= packs_of(run, checkpoint, condemned, manifest.digests())
    if repository.index.cover(manifest.digests(), run.hints(checkpoint)):
        raise DamagedError(
            f"The checkpoint {run.name}@{checkpoint.step} is damaged: chunks of it are in no readable pack.",
            do=f"'holdfast verify {run.name}' shows which; fork from another one.",
        )
