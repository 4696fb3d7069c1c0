"""From a draft to a durable checkpoint of a live run: checks, commit, tags, retention."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress

import msgspec

from holdfast.domain.manifest import Details, TensorEntry
from holdfast.domain.names import AttemptId, CheckpointId
from holdfast.errors import (
    DamagedError,
    HoldfastError,
    NotFoundError,
    SignatureError,
    StorageError,
    SupersededError,
    UsageError,
)
from holdfast.repository.commit import Committed, Draft, Join, commit
from holdfast.repository.retaining import Retention
from holdfast.repository.run import Run
from holdfast.repository.signatures import trusted_manifest

SPARE_BYTES = 16 * 1024 * 1024


class Persisted(msgspec.Struct, frozen=True):
    """A checkpoint that is durable.

    Attributes
    ----------
    committed : Committed
    untagged : dict[str, HoldfastError]
        Tags that could not be set, each with the reason.
    """

    committed: Committed
    untagged: dict[str, HoldfastError] = {}


class Persister:
    """Makes the drafts of one attempt durable, one after the other.

    Parameters
    ----------
    run, attempt
    parent : CheckpointId, optional
        What the first of them descends from.
    retention : Retention
    warn : callable
        Takes what a person should know.
    join : callable, optional
        Adds what other ranks have, see `commit`.
    """

    def __init__(
        self,
        run: Run,
        attempt: AttemptId,
        *,
        parent: CheckpointId | None,
        retention: Retention,
        warn: Callable[[str], None],
        join: Join | None = None,
    ) -> None:
        self._join = join
        self._run = run
        self._attempt = attempt
        self._parent = parent
        self._retention = retention
        self._warn = warn
        self._table: dict[str, TensorEntry] | None = None
        self._typical_bytes: int | None = None

    @property
    def parent(self) -> CheckpointId | None:
        """What the next of them descends from."""
        return self._parent

    def persist(self, draft: Draft, tags: Sequence[str] = (), *, details: Details | None = None) -> Persisted:
        """Commit, tag, then remove what the keep rule no longer keeps.

        Raises
        ------
        SupersededError
            A newer attempt has taken over the run.
        StorageError, BusyError
            Nothing was saved; earlier checkpoints stand.
        """
        self._check_attempt()
        self._retention.before()
        self._check_space(draft)
        draft.parent = self._parent
        known = self._known(draft)
        left_out = {name: entry for name, entry in known.items() if name in draft.left_out}
        try:
            committed = commit(self._run, draft, details=details, known=left_out, join=self._join)
        except UsageError as error:  # the key that signs was there at the launch: it may come back
            raise StorageError(error.what, do=error.do) from error
        self._parent, self._table = committed.id, committed.manifest.tensors
        self._compare(draft, known)
        self._typical_bytes = max(committed.new_bytes, self._typical_bytes or 0)
        untagged = self._tag(committed.id, tags)
        self._retention.after(committed)
        return Persisted(committed, untagged)

    def finish(self, checkpoint: CheckpointId, tags: Sequence[str]) -> dict[str, HoldfastError]:
        """Do for a checkpoint what follows its commit, where who committed it may have died before.

        Returns
        -------
        dict[str, HoldfastError]
            Tags that could not be set, each with the reason.

        Raises
        ------
        StorageError, BusyError, NotFoundError
            Whether it is durable is not known.
        """
        self._run.settle(checkpoint)
        return self._tag(checkpoint, tags)

    def _known(self, draft: Draft) -> dict[str, TensorEntry]:
        """What the parent says of the tensors that are said to be as they are there."""
        said = draft.left_out | draft.compared
        if not draft.is_unchanged_in(self._parent):
            return {}
        if said and self._table is None and self._parent is not None:
            with suppress(DamagedError, NotFoundError, SignatureError):  # they are read, or this save fails
                self._table = trusted_manifest(self._run, self._parent).tensors
        table = self._table or {}
        return {n: table[n] for n in said & table.keys() if table[n].spec == draft.sources[n].spec}

    def _compare(self, draft: Draft, known: Mapping[str, TensorEntry]) -> None:
        """See whether what was said to be unchanged is."""
        table = self._table or {}
        wrong = sorted(n for n in known.keys() & draft.compared if table[n] != known[n])
        if wrong:
            self._warn(
                f"{wrong[0]} changed though the kernel saw no write to it: checkpoints of this launch "
                "before this one may hold it as it was earlier. Set HOLDFAST_FENCE=off and report this."
            )

    def _check_attempt(self) -> None:
        """See that this attempt still heads the run: what a dead branch saves is never found again."""
        if not self._run.is_highest(self._attempt):
            raise SupersededError(
                f"A newer attempt of the run {self._run.name} has taken over from this process.",
                do="Let this process end; the newer one goes on.",
            )
        if self._run.storage.stat(self._run.layout.base(self._attempt)) is None:
            raise StorageError(
                f"The records of this attempt of {self._run.name} have vanished "
                f"from {self._run.storage.location}.",
                do="Put the folder back as it was, or start the training again.",
            )

    def _check_space(self, draft: Draft) -> None:
        """Refuse a save that cannot fit, before it fills the disk to the last byte."""
        free_bytes = self._run.storage.free_bytes()
        if free_bytes is None:
            return
        whole = sum(source.spec.size_bytes for source in draft.sources.values())
        need_bytes = min(whole, self._typical_bytes * 2 if self._typical_bytes is not None else whole)
        if free_bytes < need_bytes + SPARE_BYTES:
            raise StorageError(
                f"{self._run.storage.location} has {free_bytes / 1e6:.0f} MB left, "
                f"too little for a checkpoint of {need_bytes / 1e6:.0f} MB "
                f"and the {SPARE_BYTES / 1e6:.0f} MB that are kept free.",
                do="Make room there.",
            )

    def _tag(self, checkpoint: CheckpointId, tags: Sequence[str]) -> dict[str, HoldfastError]:
        failed = {}
        for tag in tags:
            try:
                self._run.set_tag(tag, checkpoint)
            except HoldfastError as error:
                failed[tag] = error
                self._warn(f"{self._run.name}@{checkpoint.step} was saved, but not tagged {tag}: {error}")
        return failed
