"""Publish: a plain file that is kept what a run's best, latest or tagged checkpoint is.

Whoever writes it holds the target's folder locked and only then asks which checkpoint it is to be. So of
two that write at one time the later one is never the older one.
"""

from __future__ import annotations

import fcntl
import math
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import msgspec

from holdfast.domain.keep_rules import Mode, is_improvement
from holdfast.domain.lineage import chain
from holdfast.domain.names import CheckpointId
from holdfast.errors import NotFoundError
from holdfast.formats.export import export_checkpoint, format_of
from holdfast.formats.files import check_target, sweep, write_beside
from holdfast.formats.reading import SavedState
from holdfast.formats.views import is_model
from holdfast.repository.run import Run
from holdfast.storage.faults import told_plainly


class Published(msgspec.Struct, frozen=True):
    """What stands there now.

    Attributes
    ----------
    checkpoint : CheckpointId
    path : str
    is_new : bool
        Whether it was written now; else it was there already.
    is_lost : bool
        It is not in the repository any more, and stays because all that are there are worse.
    """

    checkpoint: CheckpointId
    path: str
    is_new: bool
    is_lost: bool = False


class _Note(msgspec.Struct, frozen=True):
    """Beside what was published: what it is, how its files looked, and its monitored metric."""

    checkpoint: str
    files: dict[str, tuple[int, int]]
    monitor: str = ""
    value: float | None = None


def publish(run: Run, at: int | str, path: str) -> Published:
    """Make a plain file, or a folder if ``path`` ends in ``/``, what ``at`` is now: its models.

    It is replaced as a whole, and only if it is not that already. What was ``best`` stays as long as
    all that are here are worse, where the run's line led through it, and the run has lost it: it may be the
    last copy.

    Raises
    ------
    NotFoundError
        There is no such checkpoint yet.
    UsageError, UnsupportedError, DamagedError, StorageError
        What was there before is whole.
    """
    is_folder, target = format_of(path, None) == "huggingface", Path(path)
    with told_plainly("making the folder", str(target.parent)):
        target.parent.mkdir(parents=True, exist_ok=True)
    check_target(target, overwrite=True, folder=is_folder)
    with _locked(target.parent):
        for each in (target, _note_path(target)):
            sweep(each)
        checkpoint = run.resolve(at)
        note = _note(target)
        if note == (current := _current(run, checkpoint, target)):
            return Published(checkpoint, path, is_new=False)
        if at == "best" and note is not None and (lost := _lost(run, note, current)) is not None:
            return Published(lost, path, is_new=False, is_lost=True)
        models = models_in(run, checkpoint)  # all entries where there are none
        export_checkpoint(run, checkpoint, path, only=models or None, overwrite=True)
        write_beside(_note_path(target), msgspec.json.encode(_current(run, checkpoint, target)))
    return Published(checkpoint, path, is_new=True)


@contextmanager
def _locked(folder: Path) -> Iterator[None]:
    with told_plainly("locking the folder", str(folder)):
        descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX)
        yield
    finally:
        os.close(descriptor)


def models_in(run: Run, checkpoint: CheckpointId) -> list[str]:
    """The entries of a checkpoint that are models."""
    return [name for name, value in SavedState(run, checkpoint).tree.items() if is_model(value)]


def _note_path(target: Path) -> Path:
    return target.with_name(f".{target.name}.published")


def _note(target: Path) -> _Note | None:
    try:
        return msgspec.json.decode(_note_path(target).read_bytes(), type=_Note)
    except (OSError, msgspec.DecodeError):
        return None  # it is written anew


def _current(run: Run, checkpoint: CheckpointId, target: Path) -> _Note:
    """The note for a checkpoint and what stands there; its metric is what the run monitors now."""
    monitor = run.summary(run.latest() or checkpoint).monitor or ""
    value = run.summary(checkpoint).metrics.get(monitor.rpartition(" ")[0])
    is_number = value is not None and math.isfinite(value)
    return _Note(str(checkpoint), _looks(target), monitor, value if is_number else None)


def _lost(run: Run, note: _Note, current: _Note) -> CheckpointId | None:
    """What stands there, if it is better, of the run's line and not rejected, but in the run no more."""
    stands = CheckpointId.parse(note.checkpoint)
    if stands is None or note.files != current.files or str(stands) in run.rejected():
        return None
    is_here = any(c.identity[:-1] == stands.identity[:-1] for c in run.all_checkpoints())  # whole or thin
    is_on_line = any(chain(run.attempts(), [stands]))
    return stands if is_on_line and not is_here and _is_better(note, current) else None


def _is_better(note: _Note, current: _Note) -> bool:
    if note.value is None or current.value is None or note.monitor != current.monitor:
        return False
    mode: Mode = "max" if note.monitor.endswith(" max") else "min"
    return is_improvement(note.value, [current.value], mode)


def _looks(target: Path) -> dict[str, tuple[int, int]]:
    """Size and time of change of each file."""
    files = sorted(target.iterdir()) if target.is_dir() else [target]
    try:
        return {file.name: (file.stat().st_size, file.stat().st_mtime_ns) for file in files}
    except FileNotFoundError:
        return {}


def publish_if_there(run: Run, at: int | str, path: str) -> Published | None:
    """As `publish`; None if there is no such checkpoint yet."""
    try:
        return publish(run, at, path)
    except NotFoundError:
        return None
