"""Bringing a run to another repository: what is lacking there moves, nothing there is removed.

In this order, so that a sync killed at any point leaves the destination with the recovery point it
had before, or the right one:

1. rejections of what is there already;
2. the run's recovery point, as its own commit: chunks, hint, manifest; with ``latest`` the best, too;
3. attempts and how they ended, then what they were based on, the highest first;
4. all other checkpoints, the newest first;
5. tags.

A checkpoint is known by its attempt, sequence, step and kind. Its manifest names the repository it
is in, so its digest, and with it its full name, differs where the repository's id does.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Sequence
from contextlib import suppress

import msgspec

from holdfast.domain.keep_rules import KeepRule
from holdfast.domain.lineage import Attempt, recovery_points
from holdfast.domain.names import AttemptId, CheckpointId
from holdfast.errors import DamagedError, NotFoundError, SignatureError, UsageError
from holdfast.repository import records
from holdfast.repository.adopting import Advance, Origin, adopt
from holdfast.repository.run import Run
from holdfast.repository.signatures import trusted_manifest
from holdfast.repository.sync_plan import Route, best_missing, missing
from holdfast.repository.vouching import carried, carried_bytes


class Synced(msgspec.Struct):
    """What was done for a run.

    Attributes
    ----------
    checkpoints : int
        Committed at the destination.
    moved_bytes : int
        Of chunks, as they rest there.
    records : int
        Attempts, their bases and ends, rejections and tags that were new there.
    failed : dict[str, str]
        Checkpoints that have no good copy, and records that are damaged, each with the reason.
    """

    run: str
    checkpoints: int = 0
    moved_bytes: int = 0
    records: int = 0
    failed: dict[str, str] = {}

    @property
    def is_nothing(self) -> bool:
        return not (self.checkpoints or self.records or self.failed)


def own_attempts(source: Run, target: Run) -> list[AttemptId]:
    """Attempts that the destination has by itself: where there are any, a sync is refused."""
    known = {a.id for a in source.attempts()}
    return [a.id for a in target.attempts() if a.based and a.id not in known]


def refuse_diverged(source: Run, target: Run) -> None:
    """Refuse a destination whose run has gone on by itself: of two heads only one could count.

    Raises
    ------
    UsageError
    """
    own = own_attempts(source, target)
    if own and source.all_checkpoints():
        raise UsageError(
            f"The run {target.name} in {target.storage.location} has gone on by itself (attempt {own[-1]}).",
            do=f"Sync it the other way, or rename one of the two: holdfast mv {target.name} NEW",
        )


def sync_run(
    route: Route,
    name: str,
    advance: Advance = lambda size: None,
    *,
    latest: bool = False,
    keep: KeepRule | None = None,
) -> Synced:
    """Bring what is committed of a run; the caller keeps trainers away from the destination.

    Parameters
    ----------
    latest : bool
        Of the checkpoints only the one that the run resumes from, and the best that ``keep`` names.
    keep : KeepRule, optional
        Of the others only those that this rule keeps at the destination.

    Raises
    ------
    UsageError
        The destination's run has gone on by itself.
    """
    source, target = route.source.run(name), route.target.run(name)
    if own_attempts(source, target):
        refuse_diverged(source, target)
        return Synced(name)  # it is being removed there, or was
    return _Syncing(route, source, target, advance).run(latest=latest, keep=keep)


class _Syncing:
    def __init__(self, route: Route, source: Run, target: Run, advance: Advance) -> None:
        self._route = route
        self._source = source
        self._target = target
        self._advance = advance
        self._there = {c.identity: c for c in target.all_checkpoints()}
        self._done = Synced(source.name)

    def run(self, *, latest: bool, keep: KeepRule | None) -> Synced:
        attempts = self._source.attempts()  # from now on it may go on: that is for the next sync
        self._reject()
        is_ready = self._bring_recovery_point(attempts)
        if latest:  # before the line is there: a launch begins only when all of this has come
            self._bring_all(best_missing(self._source, self._target, keep))
        if is_ready:
            self._record(attempts)
        if not latest:
            self._bring_all(missing(self._source, self._target, keep))
        self._tag()
        return self._done

    # -- checkpoints -------------------------------------------------------------------

    def _bring_all(self, wanted: Sequence[CheckpointId]) -> None:
        for checkpoint in wanted:
            if str(checkpoint) not in self._done.failed:
                self._bring(checkpoint)

    def _bring_recovery_point(self, attempts: Sequence[Attempt]) -> bool:
        """See to what the run would resume from; whether its line may be recorded now."""
        tried: set[CheckpointId] = set()
        while (best := self._candidate(attempts, tried)) is not None:
            tried.add(best)
            if best.identity in self._there:
                return self._settled(best)
            if self._bring(best):
                return True
        return not self._done.failed

    def _settled(self, best: CheckpointId) -> bool:
        """Make the point that is there durable; False if it is being deleted: no line may lead to it."""
        local, place = self._there[best.identity], self._target.storage.location
        what = f"{self._target.name}@{best.step}, which the run resumes from, is"
        if str(local) in self._target.condemned():
            self._done.failed[str(best)] = (
                f"{what} being deleted in {place}; it comes back once it is gone, "
                "or another checkpoint takes its place."
            )
            return False
        self._target.settle(local)
        if str(local) in self._target.rejected():
            self._done.failed[str(best)] = (
                f"{what} rejected as damaged in {place}: 'holdfast verify {self._target.name}@{best.step} "
                f"-R {place} --repair-from {self._source.storage.location}' mends it."
            )
        return True

    def _candidate(self, attempts: Sequence[Attempt], tried: Collection[CheckpointId]) -> CheckpointId | None:
        """By what is there now: retention of a live run may be at work."""
        points = recovery_points(attempts, self._source.checkpoints(), self._source.rejected())
        return next((c for c in points if c not in tried), None)

    def _bring(self, checkpoint: CheckpointId) -> bool:
        """Commit one checkpoint at the destination; False if it is gone or damaged."""
        self._route.rely_on_target()
        origin = Origin(self._source, checkpoint, self._route.copies, self._route.reader)
        try:
            manifest = trusted_manifest(self._source, checkpoint)
            summary = msgspec.structs.replace(manifest.summary, repository=self._target.repository.id)
            local = msgspec.structs.replace(manifest, summary=summary)
            committed = adopt(self._target, local, origin, self._advance)
        except NotFoundError:
            return False  # removed since it was listed
        except SignatureError as error:
            self._done.failed[str(checkpoint)] = error.what
            return False
        except DamagedError as error:
            if self._source.storage.stat(self._source.layout.checkpoint(checkpoint)) is not None:
                self._done.failed[str(checkpoint)] = error.what.strip()
            return False
        self._there[checkpoint.identity] = committed.id
        self._done.checkpoints += 1
        self._done.moved_bytes += committed.new_bytes
        return True

    # -- records -----------------------------------------------------------------------

    def _reject(self) -> None:
        known = self._target.rejected()
        for name in sorted(self._source.rejected()):
            checkpoint = CheckpointId.parse(name)
            local = self._there.get(checkpoint.identity) if checkpoint is not None else None
            if checkpoint is not None and local is not None and str(local) not in known:
                self._target.reject(local, self._why_rejected(checkpoint))
                self._done.records += 1

    def _why_rejected(self, checkpoint: CheckpointId) -> str:
        key = self._source.layout.reject(checkpoint)
        record = records.read_or_none(self._source.storage, key, records.RejectedRecord)
        return record.reason if record is not None else "rejected where it came from"

    def _record(self, attempts: Sequence[Attempt]) -> None:
        """Attempts and their ends, then the bases, the highest first: its own point is there already."""
        layout = self._source.layout
        for attempt in attempts:
            self._bring_record(layout.attempt(attempt.id), self._create)
            self._bring_record(layout.end(attempt.id), self._replace)
        for attempt in reversed(attempts):
            if attempt.based:
                self._bring_record(layout.base(attempt.id), self._create)

    def _bring_record(self, key: str, put: Callable[[str, bytes], None]) -> None:
        """One that is damaged must not keep the others back: without its base no launch counts there."""
        try:
            put(key, self._record_at_source(key))
        except NotFoundError:
            pass  # it has none, or is being removed
        except DamagedError as error:
            self._done.failed[key] = error.what

    def _create(self, key: str, data: bytes) -> None:
        """Also where it is there: a sync that was killed may not have made it durable."""
        self._done.records += self._target.storage.put_if_absent(key, data)

    def _replace(self, key: str, data: bytes) -> None:
        with suppress(NotFoundError, DamagedError):
            if self._target.storage.get(key) == data:
                return
        self._target.storage.put(key, [data])
        self._done.records += 1

    def _record_at_source(self, key: str) -> bytes:
        data = self._source.storage.get(key, 0, records.MAX_RECORD_BYTES)
        return carried_bytes(self._source, key, data, self._target)

    def _tag(self) -> None:
        here, rejected = self._target.tags(), self._target.rejected()
        for name, checkpoint in self._source.tags().items():
            local = self._there.get(checkpoint.identity)
            if local is not None and here.get(name) != local and str(local) not in rejected:
                with suppress(NotFoundError):  # it is being deleted there, or was taken away here
                    self._target.put_tag(self._tag_there(name, local), local)
                    self._done.records += 1

    def _tag_there(self, name: str, local: CheckpointId) -> records.TagRecord:
        found = records.read(self._source.storage, self._source.layout.tag(name), records.TagRecord)
        return carried(self._source, found, self._target, records.TagRecord(name, str(local)))
