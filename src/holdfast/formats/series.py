"""Import of a folder of checkpoints as one run: ascending steps, each the parent of the next."""

from __future__ import annotations

import os
from collections.abc import Iterable
from pathlib import Path
from typing import Any, NamedTuple

import msgspec

from holdfast.domain import tree as trees
from holdfast.domain.names import AttemptId, CheckpointId
from holdfast.domain.progress import Progress
from holdfast.errors import DamagedError, HoldfastError, StorageError, UsageError
from holdfast.formats import sources
from holdfast.formats.foreign import Foreign, Options, is_resumable, opened
from holdfast.formats.importing import Imported, chosen, committed, draft_of, files_of
from holdfast.formats.reading import Advance
from holdfast.repository.repository import Repository
from holdfast.repository.run import Run


class Series(msgspec.Struct):
    """What became of a folder.

    Attributes
    ----------
    imported : list[Imported]
        In ascending order of their steps.
    known : list[str]
        Sources that an earlier import has taken.
    failed : dict[str, HoldfastError]
        Sources that were not taken, each with the reason.
    own_model : bool
        Whether the folder itself holds a model beside its checkpoints: that has no step, and was left alone.
    """

    imported: list[Imported] = []
    known: list[str] = []
    failed: dict[str, HoldfastError] = {}
    own_model: bool = False


class _Found(NamedTuple):
    """A source that can be read."""

    step: int
    source: Path
    resumable: bool


class _Line(NamedTuple):
    """What an existing run holds already."""

    files: dict[str, dict[str, int]]
    newest: CheckpointId | None
    resumable: bool


def import_folder(
    repository: Repository,
    run_name: str,
    folder: str | os.PathLike[str],
    *,
    only: Iterable[str] | None = None,
    options: Options | None = None,
    advance: Advance | None = None,
) -> Series:
    """Make the checkpoints of a folder those of one run; of a run imported before, add what is new.

    Steps are told by the names, else by the contents; a source whose step nothing tells, or that cannot be
    read, is named in ``failed``, and the others are imported. In a run of which some can be resumed (with
    an optimizer), those that hold a model only are thin.

    Parameters
    ----------
    folder : str or path
        Of ``checkpoint-N`` folders, of single files, or of folders of ``torch.distributed.checkpoint``.
    only, options, advance
        As for `import_checkpoint`.

    Raises
    ------
    UsageError
        The run exists and is no import, or has been trained on since.
    NotFoundError
        There is nothing of a known kind.
    StorageError
        What was committed before stays.
    """
    place = Path(folder)
    if not (paths := sources.members(place)):
        raise sources.refuse_nothing(place)
    run = repository.run(run_name)
    line = _line(run)
    series = Series(own_model=sources.is_checkpoint(place))
    wanted = [path for path in paths if _is_new(path, line, series)]
    entries = None if only is None else list(only)
    asked = options or Options()
    found = _in_order([f for p in wanted if (f := _looked_at(p, entries, asked, series))], line, series)
    keeps = line.resumable or any(each.resumable for each in found)
    _Writer(run, line.newest, keeps_full=keeps).write(found, entries, asked, series, advance)
    return series


# -- what is there already ---------------------------------------------------------------------


def _line(run: Run) -> _Line:
    """What can be added to: a run that has nothing yet, or all of whose line was imported."""
    line = list(reversed(run.lineage()))
    origins = [origin for checkpoint in line if (origin := _origin(run, checkpoint)) is not None]
    if len(origins) < len(line) or (not line and run.all_checkpoints()):
        raise UsageError(
            f"The run {run.name} exists already, and not all of it was imported.", do="Choose another name."
        )
    return _Line(
        files={origin["from"]: origin["files"] for origin in origins},
        newest=line[-1] if line else None,
        resumable=any(is_resumable(_tree(run, checkpoint)) for checkpoint in line),
    )


def _origin(run: Run, checkpoint: CheckpointId) -> dict[str, Any] | None:
    training = trees.decode(run.manifest(checkpoint).details.training)
    origin = training.get("imported")
    known = isinstance(origin, dict) and isinstance(origin.get("files"), dict) and "from" in origin
    return origin if known else None


def _tree(run: Run, checkpoint: CheckpointId) -> dict[str, Any]:
    tree: dict[str, Any] = trees.decode(run.manifest(checkpoint).details.tree)
    return tree


def _is_new(path: Path, line: _Line, series: Series) -> bool:
    if path.name not in line.files:
        return True
    if line.files[path.name] == files_of(path):
        series.known.append(path.name)
    else:
        series.failed[path.name] = UsageError(
            f"{path.name} has changed since it was imported.", do="Import the folder as another run."
        )
    return False


# -- what is new -------------------------------------------------------------------------------


def _looked_at(path: Path, only: list[str] | None, options: Options, series: Series) -> _Found | None:
    """Its step, and whether it can be resumed; None, with the reason told, if it cannot be read."""
    try:
        with opened(path, options) as foreign:
            tree = chosen(foreign.tree, only, path)
            return _Found(_step(path, foreign), path, is_resumable(tree))
    except StorageError:
        raise
    except HoldfastError as error:
        series.failed[path.name] = error
        return None


def _step(path: Path, foreign: Foreign) -> int:
    """What name and contents tell; where they differ neither is believed."""
    named, told = sources.named_step(path.name), foreign.step
    if named is not None and told is not None and named != told:
        raise DamagedError(
            f"{path.name} is of step {named} by its name and of step {told} by its contents.",
            do="Give it its true name, or import it alone with --step.",
        )
    step = next((s for s in (named, told, sources.lone_number(path.name)) if s is not None), None)
    if step is None:
        raise UsageError(
            f"Nothing tells the step of {path.name}.",
            do="Name it like step-500, or import it alone with --step.",
        )
    return step


def _in_order(found: list[_Found], line: _Line, series: Series) -> list[_Found]:
    """By their steps, each above those before it: a line grows at its end."""
    kept: list[_Found] = []
    newest = line.newest.step if line.newest is not None else -1
    for each in sorted(found, key=lambda f: (f.step, not f.resumable, f.source.name)):
        if each.step > newest:
            kept.append(each)
            newest = each.step
        else:
            series.failed[each.source.name] = UsageError(
                f"{each.source.name} is of step {each.step}, and the run has step {newest} already.",
                do="Import it as another run.",
            )
    return kept


class _Writer:
    """Commits one source after the other; the attempt begins with the first that can be committed."""

    def __init__(self, run: Run, newest: CheckpointId | None, *, keeps_full: bool) -> None:
        self._run = run
        self._newest = newest
        self._keeps_full = keeps_full
        self._attempt: AttemptId | None = None
        self._sequence = 0

    def write(
        self,
        found: list[_Found],
        only: list[str] | None,
        options: Options,
        series: Series,
        advance: Advance | None,
    ) -> None:
        for each in found:
            try:
                with opened(each.source, options) as foreign:
                    series.imported.append(self._one(each, foreign, only, advance))
            except StorageError:
                raise
            except HoldfastError as error:
                series.failed[each.source.name] = error
        if self._attempt is not None and self._newest is not None:
            self._run.record_end(self._attempt, "imported", self._newest.step, done=False)

    def _one(
        self, each: _Found, foreign: Foreign, only: list[str] | None, advance: Advance | None
    ) -> Imported:
        if self._attempt is None:
            attempt = self._run.begin_attempt()
            self._run.record_base(attempt, self._newest)
            self._attempt = attempt
        self._sequence += 1
        draft = draft_of(
            foreign,
            chosen(foreign.tree, only, each.source),
            each.source,
            Progress(step=each.step, epoch=foreign.epoch),
            self._attempt,
            sequence=self._sequence,
            advance=advance,
            parent=self._newest,
            kind="full" if each.resumable or not self._keeps_full else "thin",
        )
        imported = committed(self._run, draft, each.source, foreign)
        self._newest = imported.checkpoint
        return imported
