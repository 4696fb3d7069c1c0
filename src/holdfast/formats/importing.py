"""Import: another program's file as the first checkpoint of a run; nothing in it is ever executed."""

from __future__ import annotations

import os
from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import msgspec

from holdfast.domain.names import AttemptId, CheckpointId
from holdfast.domain.progress import Progress
from holdfast.domain.tensors import TensorSource
from holdfast.domain.tree import references
from holdfast.errors import NotFoundError, UsageError
from holdfast.formats.foreign import Foreign, Options, opened
from holdfast.formats.reading import Advance
from holdfast.repository.commit import Draft, commit
from holdfast.repository.repository import Repository
from holdfast.repository.run import Run

if TYPE_CHECKING:
    import numpy as np
    import numpy.typing as npt


class Imported(msgspec.Struct, frozen=True):
    """What an import committed.

    Attributes
    ----------
    checkpoint : CheckpointId
    source : str
        Name of the file or folder that it was read from.
    entries : list[str]
        Entries of the new state.
    left_out : list[str]
        What the file names but does not hold whole, and files that were not read.
    tensors, size_bytes : int
    """

    checkpoint: CheckpointId
    source: str
    entries: list[str]
    left_out: list[str]
    tensors: int
    size_bytes: int


def import_checkpoint(
    repository: Repository,
    run_name: str,
    path: str | os.PathLike[str],
    *,
    step: int | None = None,
    only: Iterable[str] | None = None,
    options: Options | None = None,
    advance: Advance | None = None,
) -> Imported:
    """Make a file or folder of another program the first checkpoint of a new run.

    Parameters
    ----------
    path : str or path
        ``.pt``, ``.pth``, ``.bin`` or ``.ckpt`` of PyTorch or Lightning (read by PyTorch's restricted
        loader), ``.safetensors``, ``.pdparams`` and ``.pdopt`` of one name (either names both), a folder
        with ``model.safetensors``, or one of ``torch.distributed.checkpoint``.
    step : int, optional
        By default what the file tells, else 0.
    only : iterable of str, optional
        Restrict to these entries of the file.
    advance : callable, optional
        Told the bytes of tensors done since it was last called.

    Raises
    ------
    UsageError
        The run has checkpoints already, or the file is of no known kind.
    UnsupportedError
        The file holds more than tensors and plain values; nothing was run.
    DamagedError
        The file is cut short, or not what its name says.
    """
    run = repository.run(run_name)
    if not _is_free(run):
        raise UsageError(
            f"The run {run_name} exists already; an import makes a new one.", do="Choose another name."
        )
    source = Path(path)
    with opened(source, options or Options()) as foreign:
        progress = foreign.progress if step is None else Progress(step=step, epoch=foreign.epoch)
        tree = chosen(foreign.tree, only, source)
        attempt = run.begin_attempt()
        run.record_base(attempt, None)
        draft = draft_of(foreign, tree, source, progress, attempt, sequence=1, advance=advance)
        imported = committed(run, draft, source, foreign)
        run.record_end(attempt, draft.reason, progress.step, done=False)
    return imported


def _is_free(run: Run) -> bool:
    """Whether a name can be taken: what an import left there that was cut short takes none."""
    markers = (run.layout.moving, run.layout.moved)
    return not run.all_checkpoints() and all(run.storage.stat(marker) is None for marker in markers)


def draft_of(
    foreign: Foreign,
    tree: dict[str, Any],
    source: Path,
    progress: Progress,
    attempt: AttemptId,
    *,
    sequence: int,
    advance: Advance | None = None,
    parent: CheckpointId | None = None,
    kind: str = "full",
) -> Draft:
    """The checkpoint that entries of a file become; it says where they are from."""
    names = {ref.name for ref in references(tree)}
    training: dict[str, Any] = {"imported": origin(source, foreign)}
    if foreign.rng is not None and kind == "full":
        training["rng"] = foreign.rng
    return Draft(
        attempt=attempt,
        sequence=sequence,
        progress=progress,
        reason=f"imported from {source.name}",
        sources={n: _Told(s, advance) for n, s in foreign.capture.tensors.items() if n in names},
        tree=tree,
        training=training,
        metrics=foreign.metrics,
        parent=parent,
        kind=kind,
    )


def committed(run: Run, draft: Draft, source: Path, foreign: Foreign) -> Imported:
    """Make it durable."""
    done = commit(run, draft)
    return Imported(
        checkpoint=done.id,
        source=source.name,
        entries=list(draft.tree),
        left_out=foreign.left_out,
        tensors=done.summary.tensors,
        size_bytes=done.summary.size_bytes,
    )


def origin(source: Path, foreign: Foreign) -> dict[str, Any]:
    """Where a checkpoint is from: what wrote it, its name, its folder, its files with their sizes."""
    return {
        "kind": foreign.kind,
        "from": source.name,
        "folder": str(source.absolute().parent),
        "files": files_of(source),
    }


def files_of(source: Path) -> dict[str, int]:
    """Sizes of the files that a source consists of, by name."""
    paired = (".pdparams", ".pdopt")
    if source.is_dir():
        paths = [path for path in source.iterdir() if path.is_file()]
    elif source.suffix.lower() in paired:
        paths = [path for path in map(source.with_suffix, paired) if path.is_file()]
    else:
        paths = [source]
    return {path.name: path.stat().st_size for path in sorted(paths)}


def chosen(tree: dict[str, Any], only: Iterable[str] | None, path: Path) -> dict[str, Any]:
    """The entries that are wanted.

    Raises
    ------
    NotFoundError
    """
    if only is None:
        return tree
    wanted = [only] if isinstance(only, str) else list(only)
    if unknown := sorted(set(wanted) - set(tree)):
        raise NotFoundError(
            f"{path.name} has no {', '.join(unknown)}; it holds {', '.join(sorted(tree))}.",
            do="Name one of these.",
        )
    return {name: tree[name] for name in wanted}


class _Told:
    """A source that tells when it was read."""

    def __init__(self, source: TensorSource, advance: Advance | None) -> None:
        self.spec = source.spec
        self._source = source
        self._advance = advance

    def read(self) -> npt.NDArray[np.uint8]:
        data = self._source.read()
        if self._advance is not None:
            self._advance(len(data))
            self._advance = None
        return data
