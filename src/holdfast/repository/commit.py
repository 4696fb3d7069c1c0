"""The commit: packs first, then the manifest that names their chunks, then a second look."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Mapping
from contextlib import suppress
from typing import Any

import msgspec

from holdfast.domain import tree
from holdfast.domain.manifest import Details, Manifest, Summary, TensorEntry
from holdfast.domain.manifest_file import encode_manifest
from holdfast.domain.names import AttemptId, CheckpointId
from holdfast.domain.progress import Progress
from holdfast.domain.tensors import TensorSource
from holdfast.errors import NotFoundError, StorageError
from holdfast.repository import layout, records, seen
from holdfast.repository.depending import keep_up
from holdfast.repository.run import Run
from holdfast.repository.signatures import sign
from holdfast.repository.writing import PackWriter, Written, discard
from holdfast.storage.base import Storage

RECHECKS = 3
Gather = Callable[[frozenset[str]], Written]
"""Finds packs that hold all of a checkpoint's chunks, without those packs; writes what is lacking."""
Join = Callable[[Manifest, Written, Gather], tuple[Manifest, Written, Gather]]
"""Adds what other ranks have to a manifest that is about to be published."""


class Draft(msgspec.Struct):
    """Everything of a checkpoint to be, as its writer knows it.

    Attributes
    ----------
    attempt, sequence, kind
        As in `CheckpointId`.
    tree : dict[str, Any]
        The state: plain values, `TensorRef`, `Component`; encoded at commit.
    training : dict[str, Any]
        RNGs and data position, likewise.
    given : dict[str, Any]
        Values that the script constructs, by name.
    environment : dict[str, dict[str, str]]
    sources : mapping
        Bytes of every tensor that ``tree`` names; unchanged until `commit` returns.
    left_out : frozenset[str]
        Tensors that are as in the parent, so that they need not be read.
    compared : frozenset[str]
        Tensors that are read all the same, to see whether they are as in the parent.
    saved_seconds : float or None
        When it was saved; None means now.
    """

    attempt: AttemptId
    sequence: int
    progress: Progress
    reason: str
    sources: Mapping[str, TensorSource]
    tree: dict[str, Any]
    training: dict[str, Any] = {}
    given: dict[str, Any] = {}
    environment: dict[str, dict[str, str]] = {}
    metrics: dict[str, float] = {}
    parent: CheckpointId | None = None
    kind: str = "full"
    done: bool = False
    monitor: str | None = None
    left_out: frozenset[str] = frozenset()
    compared: frozenset[str] = frozenset()
    saved_seconds: float | None = None


class Committed(msgspec.Struct, frozen=True):
    """A durable checkpoint, and what it cost."""

    id: CheckpointId
    manifest: Manifest
    new_bytes: int
    seconds: float

    @property
    def summary(self) -> Summary:
        return self.manifest.summary


def encode_details(draft: Draft) -> Details:
    """Encode everything that is no tensor.

    Raises
    ------
    UnsupportedError
        Names the path of the first leaf that cannot be kept exactly.
    """
    return Details(
        tree=tree.encode(draft.tree),
        training=tree.encode(draft.training, "training"),
        given={name: tree.encode(value, name) for name, value in draft.given.items()},
        environment=draft.environment,
    )


def commit(
    run: Run,
    draft: Draft,
    *,
    details: Details | None = None,
    dedup: bool = True,
    known: Mapping[str, TensorEntry] | None = None,
    join: Join | None = None,
) -> Committed:
    """Make a checkpoint durable and visible, whole or not at all.

    Parameters
    ----------
    details : Details, optional
        What of the draft is no tensor, where another process has encoded it already.
    dedup : bool
        Rely on chunks that the repository has; False writes all of them to new packs.
    known : mapping, optional
        Entries of tensors that need not be read while their chunks are in packs that may be relied on.
    join : callable, optional
        Called once its own chunks are durable; should it fail, nothing becomes visible.

    Raises
    ------
    UnsupportedError
        Before anything is written.
    StorageError
        Nothing became visible; or, where the outcome could not be learned, the checkpoint
        is left alone and not counted.
    """
    started = time.monotonic()
    details = details or encode_details(draft)

    def gather(lost: frozenset[str]) -> Written:
        find = Finder(run, lost).find if dedup or lost else _find_nothing
        return PackWriter(run.storage, run.repository.chunk_bytes, find).write(draft.sources, known or {})

    with run.repository.holding(saving=True):
        keep_up(run, draft.parent)
        written = gather(frozenset())
        manifest = described(run, draft, details, written)
        again: Gather = gather
        if join is not None:
            manifest, written, again = _joined(run, join, manifest, written, gather)
        checkpoint, written = publish(run, manifest, written, again)
    return Committed(checkpoint, manifest, written.new_bytes, time.monotonic() - started)


def described(run: Run, draft: Draft, details: Details, written: Written) -> Manifest:
    """The manifest of a draft whose chunks are durable."""
    return Manifest(_summary(run, draft, written), details, run.repository.chunk_bytes, written.tensors)


def _joined(
    run: Run, join: Join, manifest: Manifest, written: Written, gather: Gather
) -> tuple[Manifest, Written, Gather]:
    try:
        return join(manifest, written, gather)
    except BaseException:
        discard(run.storage, written.new_packs)
        raise


def publish(
    run: Run, manifest: Manifest, written: Written, gather: Gather, *, signature: bytes | None = None
) -> tuple[CheckpointId, Written]:
    """Make a manifest visible whose chunks are durable; return its name, and the packs that it relies on.

    The caller holds the repository, for saving.

    Parameters
    ----------
    written : Written
        What ``gather`` gave.
    gather : callable
        Asked again, if packs relied on turn out to be going.
    signature : bytes, optional
        One that it has already; else it is signed if a key for that is given.
    """
    checkpoint, data = encode_manifest(manifest)
    try:
        put_hint(run, checkpoint, written.packs)
        sign(run, manifest, checkpoint, signature)
    except BaseException:
        _clear(run, checkpoint, written)
        raise
    _publish(run, checkpoint, data, written)
    written = _recheck(run, checkpoint, written, gather)
    learn(run, checkpoint, written)
    seen.note(run, checkpoint)
    return checkpoint, written


def put_hint(run: Run, checkpoint: CheckpointId, packs: Iterable[str]) -> None:
    """Note which packs hold a checkpoint's chunks; all of these are durable already."""
    run.storage.put(run.layout.hint(checkpoint), [records.encode(records.HintRecord(sorted(packs)))])


def _find_nothing(digest: bytes) -> None:
    del digest


class Finder:
    """Says which packs a new checkpoint may rely on."""

    def __init__(self, run: Run, excluded: frozenset[str] = frozenset()) -> None:
        self._repository = run.repository
        self._excluded = excluded | run.repository.condemned_packs().keys()
        self._standing: dict[str, bool] = {}

    def find(self, digest: bytes) -> str | None:
        for copy in self._repository.index.copies(digest):
            if copy.pack in self._repository.dependable and self.stands(copy.pack):
                return copy.pack
        return None

    def stands(self, pack_id: str) -> bool:
        """Whether the pack is there and not condemned, by a look at the storage once."""
        if pack_id in self._excluded:
            return False
        if pack_id not in self._standing:
            self._standing[pack_id] = self._repository.storage.stat(layout.pack(pack_id)) is not None
        return self._standing[pack_id]


def _summary(run: Run, draft: Draft, written: Written) -> Summary:
    return Summary(
        repository=run.repository.id,
        attempt=draft.attempt,
        sequence=draft.sequence,
        kind=draft.kind,
        progress=draft.progress,
        parent=str(draft.parent) if draft.parent is not None else None,
        saved_seconds=draft.saved_seconds if draft.saved_seconds is not None else time.time(),
        reason=draft.reason,
        metrics=draft.metrics,
        size_bytes=sum(entry.spec.size_bytes for entry in written.tensors.values()),
        tensors=len(written.tensors),
        done=draft.done,
        monitor=draft.monitor,
    )


def _publish(run: Run, checkpoint: CheckpointId, data: bytes, written: Written) -> None:
    """Create the manifest. Its name is its digest, so a lost answer is asked for again."""
    key = run.layout.checkpoint(checkpoint)
    run.repository.doubtful.add(str(checkpoint))
    try:
        run.storage.put_if_absent(key, data)
    except StorageError as error:
        if not _repeated(run, key, data):
            if _surely_absent(run.storage, key):
                _clear(run, checkpoint, written)
            raise error from None


def _repeated(run: Run, key: str, data: bytes) -> bool:
    try:
        run.storage.put_if_absent(key, data)
        return run.storage.get(key) == data
    except (StorageError, NotFoundError):
        return False


def _surely_absent(storage: Storage, key: str) -> bool:
    """Whether a failed request can no longer take effect; one to a remote store may still arrive."""
    try:
        return storage.exclusive_locks and storage.stat(key) is None
    except StorageError:
        return False


def _clear(run: Run, checkpoint: CheckpointId, written: Written) -> None:
    """Remove what a commit that surely failed has left, above all on a full disk."""
    discard(run.storage, written.new_packs)
    run.repository.doubtful.discard(str(checkpoint))
    with suppress(StorageError):
        run.storage.delete(run.layout.hint(checkpoint))
        run.storage.delete(run.layout.signature(checkpoint))


def _recheck(run: Run, checkpoint: CheckpointId, written: Written, gather: Gather) -> Written:
    """See that every pack relied on is still there and not condemned; else write those chunks anew."""
    lost: frozenset[str] = frozenset()
    for _ in range(RECHECKS):
        finder = Finder(run, lost)
        gone = {pack_id for pack_id in written.packs if not finder.stands(pack_id)}
        if not gone:
            run.repository.doubtful.discard(str(checkpoint))
            return written
        lost |= gone
        rewritten = gather(lost)
        if rewritten.tensors != written.tensors:
            break
        written = rewritten
        put_hint(run, checkpoint, written.packs)
    raise StorageError(
        f"The checkpoint {run.name}@{checkpoint.step} is published, but packs it relies on keep vanishing.",
        do="See that only one process prunes this repository.",
    )


def learn(run: Run, checkpoint: CheckpointId, written: Written) -> None:
    """Remember which packs hold a checkpoint: they may be relied on."""
    repository = run.repository
    for pack_id, entries in written.new_packs.items():
        repository.index.add(pack_id, entries)
    repository.dependable |= written.packs
    repository.marks[run.name, str(checkpoint)] = written.packs
