"""Which packs a writer may rely on, so that it need not write again what they hold."""

from __future__ import annotations

from collections.abc import Collection
from contextlib import suppress

from holdfast.domain.names import CheckpointId
from holdfast.errors import DamagedError, NotFoundError
from holdfast.repository import layout
from holdfast.repository.retention import packs_of
from holdfast.repository.run import Run


def depend_on(run: Run, checkpoint: CheckpointId, condemned: Collection[str] = ()) -> None:
    """Rely on the packs that a committed checkpoint needs."""
    packs = packs_of(run, checkpoint, condemned)
    run.repository.index.load(packs)
    run.repository.dependable |= packs


def keep_up(run: Run, parent: CheckpointId | None) -> None:
    """Learn which packs hold the parent's chunks now, if those that did were rewritten since.

    Otherwise each compaction beside a live run would make it write its frozen tensors once more.
    The caller holds the repository.
    """
    repository = run.repository
    known = repository.marks.get((run.name, str(parent)), frozenset())
    condemned = repository.condemned_packs().keys()
    gone = {p for p in known - condemned if repository.storage.stat(layout.pack(p)) is None}
    if parent is None or not (gone or known & condemned):
        return
    for pack_id in gone:
        repository.index.forget(pack_id)
    repository.dependable -= gone
    del repository.marks[run.name, str(parent)]
    with suppress(DamagedError, NotFoundError):  # then it writes all of it, as if there were no parent
        depend_on(run, parent, condemned)
