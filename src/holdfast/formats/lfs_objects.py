"""Objects of Git LFS in a repository: each a run of its own with one checkpoint, found by its SHA-256.

A ``.safetensors`` file is cut where its tensors are. If it was exported from this very repository, these are
the chunks of the checkpoint that it says it is from, so they take up nothing.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from itertools import pairwise
from pathlib import Path
from typing import Any

from holdfast.domain.names import CheckpointId
from holdfast.domain.progress import Progress
from holdfast.domain.tensors import TensorRef, TensorSpec
from holdfast.errors import DamagedError, HoldfastError, NotFoundError, UsageError
from holdfast.formats.flat import CHECKPOINT, RUN
from holdfast.formats.reading import Advance, SavedState
from holdfast.formats.safetensors import FileTensor, SafetensorsFile
from holdfast.frameworks import capturing
from holdfast.repository.commit import Draft, commit
from holdfast.repository.depending import depend_on
from holdfast.repository.repository import Repository
from holdfast.repository.run import Run
from holdfast.storage.faults import told_plainly

PIECE_BYTES = 64 * 1024 * 1024
_BLOCK_BYTES = 1 << 20
_OID = re.compile(r"[0-9a-f]{64}")


def put_object(repository: Repository, oid: str, path: Path, advance: Advance | None = None) -> None:
    """Keep a file, unless it is there.

    Raises
    ------
    DamagedError
        Its SHA-256 is not its name.
    StorageError
    """
    run = _run(repository, oid)
    if _kept(run) is not None:
        return
    if sha256_of(path) != oid:
        raise DamagedError(f"{path} does not hold the object {oid}: its SHA-256 is another.")
    cuts, origin = _described(path)
    _rely_on(repository, origin)
    with told_plainly(f"reading {path.name}", str(path.parent)), _pieces(path, cuts) as pieces:
        capture = capturing.Capture({})
        refs = [capture.tensor(f"content/{i}", "numpy", "cpu", piece) for i, piece in enumerate(pieces)]
        attempt = run.begin_attempt()
        run.record_base(attempt, None)
        draft = Draft(
            attempt=attempt,
            sequence=1,
            progress=Progress(),
            reason="git lfs push",
            sources=capture.tensors,
            tree={"content": refs},
        )
        done = commit(run, draft)
        run.record_end(attempt, "pushed", 0, done=True)
    if advance is not None:
        advance(done.summary.size_bytes)


def get_object(repository: Repository, oid: str, path: Path, advance: Advance | None = None) -> None:
    """Write an object to a new file, every byte verified.

    Raises
    ------
    NotFoundError
        It is not there.
    DamagedError
        What is there has not this SHA-256; no file is left.
    """
    run = _run(repository, oid)
    checkpoint = _kept(run)
    if checkpoint is None:
        raise NotFoundError(
            f"The object {oid} is not in {repository.storage.location}.", do="Push it from where it is."
        )
    with told_plainly(f"writing {path.name}", str(path.parent)), run.repository.holding():
        path.touch(exist_ok=False)
        try:
            _write(SavedState(run, checkpoint), oid, path, advance)
        except BaseException:
            path.unlink(missing_ok=True)  # above all on a full disk
            raise


def _write(saved: SavedState, oid: str, path: Path, advance: Advance | None) -> None:
    hashed = hashlib.sha256()
    with path.open("wb") as file:
        for data in saved.stream([ref.name for ref in _content(saved)], advance):
            hashed.update(data.data)
            file.write(data.data)
    if hashed.hexdigest() != oid:
        raise DamagedError(f"What is kept as the object {oid} has another SHA-256.")


def _run(repository: Repository, oid: str) -> Run:
    if not _OID.fullmatch(oid):
        raise UsageError(f"{oid[:100]!r} is not the name of an object of Git LFS.", do="It is a SHA-256.")
    return repository.run(f"lfs/sha256-{oid}")


def _kept(run: Run) -> CheckpointId | None:
    """What holds the object, of whichever push: one that was begun beside it and cut short hides nothing."""
    rejected = run.rejected()
    full = (c for c in reversed(run.checkpoints()) if c.kind == "full")
    return next((c for c in full if str(c) not in rejected), None)


def _content(saved: SavedState) -> list[TensorRef]:
    refs: Any = saved.tree.get("content")
    if not isinstance(refs, list) or not all(isinstance(ref, TensorRef) for ref in refs):
        raise DamagedError(f"The run {saved.run.name} holds no object of Git LFS.")
    return refs


def sha256_of(path: Path) -> str:
    """SHA-256 of a file."""
    with told_plainly(f"reading {path.name}", str(path.parent)), path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


@contextmanager
def _pieces(path: Path, inner: list[int]) -> Iterator[list[FileTensor]]:
    """The file cut up."""
    with path.open("rb") as file:
        size_bytes = file.seek(0, 2)
        cuts = [0, *(inner or range(PIECE_BYTES, size_bytes, PIECE_BYTES)), size_bytes]
        spans = [(start, end - start) for start, end in pairwise(cuts) if end > start]
        descriptor = file.fileno()
        yield [FileTensor(descriptor, TensorSpec("uint8", (n,)), start, path.name) for start, n in spans]


def _described(path: Path) -> tuple[list[int], dict[str, str]]:
    """Where the tensors of a ``.safetensors`` file begin, and its metadata; nothing of another file."""
    try:
        with SafetensorsFile(path) as file:
            return sorted(tensor.start for tensor in file.tensors.values()), file.metadata
    except HoldfastError:
        return [], {}


def _rely_on(repository: Repository, origin: dict[str, str]) -> None:
    """Let what is committed next take its chunks from the checkpoint that a file is from, if it is here."""
    checkpoint = CheckpointId.parse(origin.get(CHECKPOINT, ""))
    if checkpoint is None:
        return
    with suppress(HoldfastError):  # it costs space, nothing else
        run = repository.run(origin.get(RUN, ""))
        if checkpoint in run.checkpoints():
            depend_on(run, checkpoint)
