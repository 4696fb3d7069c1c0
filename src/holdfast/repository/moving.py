"""Giving a run another name, safe to kill at any point and to start again.

Packs are shared and manifests do not say their run's name, so moving copies small files:

1. ``moving.json`` under the new name says what comes. Then everything is copied: what condemns or
   rejects before the manifests it is about; manifests; tags; attempts; their bases last, the
   head's base first. Before that one write the new name has no recovery point, after it the right
   one. The old run is untouched so far.
2. ``moved.json`` under the old name says that the copy is complete, and of which attempts.
3. The old files go: manifests first, oldest first, so that what is left never resumes from an
   older point than it should; attempts after them; the two markers last.

The caller sees to it that nobody trains under either name meanwhile.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import suppress

import msgspec

from holdfast.domain.names import CheckpointId
from holdfast.errors import DamagedError, FormatError, NotFoundError, UsageError
from holdfast.repository import records
from holdfast.repository.run import Run
from holdfast.repository.signatures import renew
from holdfast.repository.vouching import carried_bytes
from holdfast.storage.base import Storage


class MovingRecord(msgspec.Struct, frozen=True):
    """Under the new name: a copy of ``source`` is being made."""

    source: str


class MovedRecord(msgspec.Struct, frozen=True):
    """Under the old name: all of it, these attempts included, stands under ``target``."""

    target: str
    attempts: list[str]


class Moved(msgspec.Struct, frozen=True):
    """What a move did.

    Attributes
    ----------
    copied, deleted : int
        Files.
    resumed : bool
        Whether an earlier one was cut short.
    unsigned : int
        Checkpoints that were signed and are not under the new name: a signature is for one run.
    """

    copied: int
    deleted: int
    resumed: bool
    unsigned: int = 0


def move(run: Run, target: Run) -> Moved:
    """Move all of a run to a name that is free, or go on with a move that was cut short.

    Raises
    ------
    NotFoundError
        There is no such run.
    UsageError
        The new name is taken, or the old one was trained again after it had been moved.
    """
    with run.repository.holding():
        moved = records.read_or_none(run.storage, run.layout.moved, MovedRecord)
        resumed = moved is not None or _is_begun(run, target)
        if moved is None and not run.exists():
            return _finish_marker(run, target, resumed=resumed)
        copied = unsigned = 0
        if moved is None:
            copied, unsigned = _copy(run, target, resumed=resumed)
        else:
            _check_moved(run, target, moved)
        deleted = _delete(run)
        target.storage.delete(target.layout.moving)
    return Moved(copied, deleted, resumed, unsigned)


def _is_begun(run: Run, target: Run) -> bool:
    record = records.read_or_none(target.storage, target.layout.moving, MovingRecord)
    return record is not None and record.source == run.name


def _finish_marker(run: Run, target: Run, *, resumed: bool) -> Moved:
    if not resumed:
        raise NotFoundError(
            f"There is no run {run.name!r} in {run.storage.location}.", do="'holdfast ls' lists all runs."
        )
    target.storage.delete(target.layout.moving)
    return Moved(0, 0, resumed=True)


def _attempt_names(run: Run) -> set[str]:
    return {key.rpartition("/")[2].partition(".")[0] for key in run.storage.list(run.layout.attempts)}


def _check_moved(run: Run, target: Run, moved: MovedRecord) -> None:
    if moved.target != target.name:
        raise UsageError(
            f"The run {run.name} is half way to {moved.target}.",
            do=f"Finish that first: holdfast mv {run.name} {moved.target}",
        )
    newer = _attempt_names(run) - set(moved.attempts)
    if newer:
        raise UsageError(
            f"The run {run.name} was trained again after it had been moved to {moved.target}.",
            do="Look at both with 'holdfast ls'; then remove one, or move it to a third name.",
        )


def _copy(run: Run, target: Run, *, resumed: bool) -> tuple[int, int]:
    if target.exists() and not (resumed and _attempt_names(target) <= _attempt_names(run)):
        raise UsageError(
            f"There is a run {target.name} already.", do="Choose a free name, or remove that run."
        )
    storage = run.storage
    if not resumed:
        storage.put(target.layout.moving, [records.encode(MovingRecord(run.name))])
    for key in list(storage.list(target.layout.tags)):
        storage.delete(key)  # of a move cut short: they may have been set anew since
    there = set(storage.list(target.layout.root))
    copied = unsigned = 0
    for key in _in_copying_order(run):
        new = target.layout.root + key.removeprefix(run.layout.root)
        if new not in there:
            unsigned += not _is_signed_anew(run, target, key)
            storage.put(new, [carried_bytes(run, key, _contents(storage, key), target)])
            copied += 1
    marker = MovedRecord(target.name, sorted(_attempt_names(run)))
    storage.put(run.layout.moved, [records.encode(marker)])
    return copied, unsigned


def _is_signed_anew(run: Run, target: Run, key: str) -> bool:
    """See to the signature of what will lie under another run's name; False if it is lost by that."""
    checkpoint = CheckpointId.parse(key.rpartition("/")[2]) if key.endswith(".manifest") else None
    with suppress(DamagedError, FormatError):
        return checkpoint is None or renew(run, checkpoint, target)
    return True


def _contents(storage: Storage, key: str) -> bytes:
    """What does not unseal cannot be sealed again under another name: it stays as damaged as it was."""
    with suppress(DamagedError):
        return storage.get(key)
    return b""


def _in_copying_order(run: Run) -> Iterator[str]:
    layout, storage = run.layout, run.storage
    for folder in (layout.condemned, layout.rejected, layout.hints, layout.checkpoints, layout.tags):
        yield from [key for key in storage.list(folder) if not key.endswith(".signature")]
    attempts = list(storage.list(layout.attempts))
    yield from (key for key in attempts if not key.endswith(".base"))
    yield from sorted((key for key in attempts if key.endswith(".base")), reverse=True)


def _delete(run: Run) -> int:
    keys = [run.layout.checkpoint(c) for c in run.all_checkpoints()]
    keys += list(files_beside(run))
    for key in keys:
        run.storage.delete(key)
    run.storage.delete(run.layout.moved)
    run.storage.delete(run.layout.moving)
    for checkpoint in list(run.repository.marks):
        if checkpoint[0] == run.name:
            del run.repository.marks[checkpoint]
    return len(keys)


def files_beside(run: Run) -> Iterator[str]:
    """Everything of a run but readable manifests' files, attempts last; nothing of runs nested below it."""
    layout = run.layout
    yield from list(run.keys_in(layout.parts))
    folders = (layout.checkpoints, layout.hints, layout.tags, layout.rejected, layout.condemned)
    for folder in (*folders, layout.requests, layout.leases, layout.attempts):
        for key in list(run.storage.list(folder)):
            if not (folder == layout.checkpoints and _is_manifest(key)):
                yield key


def _is_manifest(key: str) -> bool:
    return CheckpointId.parse(key.rpartition("/")[2]) is not None
