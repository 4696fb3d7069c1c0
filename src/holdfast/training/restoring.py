"""Restore: choose the newest recovery point that verifies, compare, read, and only then touch."""

from __future__ import annotations

import errno
import time
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from typing import TYPE_CHECKING, Any

import msgspec

from holdfast.domain import events, tree
from holdfast.domain.changes import Resolution, compare_environment, compare_given, decide_changes
from holdfast.domain.events import Event, Rejected, Warned
from holdfast.domain.manifest import Manifest
from holdfast.domain.mirrors import Mirror
from holdfast.domain.names import CheckpointId
from holdfast.domain.ranks import of_rank, world_size
from holdfast.errors import (
    DamagedError,
    HoldfastError,
    NotFoundError,
    SignatureError,
    StorageError,
    UnsupportedError,
    UsageError,
)
from holdfast.frameworks import walk
from holdfast.repository import seen
from holdfast.repository.collecting import collector_paused
from holdfast.repository.reading import read_tensors
from holdfast.repository.recalling import recall_tensors
from holdfast.repository.retention import packs_of
from holdfast.repository.run import Run
from holdfast.repository.signatures import trusted_manifest
from holdfast.repository.vouching import passed_over
from holdfast.training import poison
from holdfast.training.claiming import refuse_without_line
from holdfast.training.mirroring import mend
from holdfast.training.ranks.launch import Place

if TYPE_CHECKING:
    from holdfast.repository.recalling import Bytes

READ_TRIES = 3


class Restored(msgspec.Struct, frozen=True):
    """A restore that has happened.

    Attributes
    ----------
    id : CheckpointId
    manifest : Manifest
    training : dict[str, Any]
        RNGs and data position as saved; empty where it has none.
    given : dict[str, Any]
        What later checkpoints record as given by the script.
    seconds : float
    skipped : list[str]
        Entries passed over with ``strict=False``.
    from_memory : bool
        Whether no tensor had to be read from the storage.
    altered : bool
        Whether values that the script gives have taken the place of those recorded.
    inexact : bool
        Whether software or device are such that bits may differ.
    """

    id: CheckpointId
    manifest: Manifest
    training: dict[str, Any]
    given: dict[str, Any]
    seconds: float
    skipped: list[str]
    from_memory: bool = False
    altered: bool = False
    inexact: bool = False

    def event(self, run: str, attempt: str) -> events.Restored:
        """What is told of it."""
        progress, place = self.manifest.summary.progress, "memory" if self.from_memory else None
        return events.Restored(run, progress.step, progress, self.seconds, place, attempt)


class Restorer:
    """Restores checkpoints of one run into one live state.

    Parameters
    ----------
    run : Run
    state : dict[str, Any]
        Restored in place.
    given : mapping
        Values that the script constructs, by name; taken before any restore.
    changed : str
        ``refuse``, ``keep`` or ``apply``: what to do where they differ from those recorded.
    environment : mapping
        Of this process, to be compared.
    in_memory : callable, optional
        Gives the bytes of those tensors of a checkpoint, by its name, that are in memory; not trusted.
    mirrors : sequence of Mirror
        What is damaged is mended by what these have, before another checkpoint is taken.
    place : Place, optional
        Which of how many ranks restores; without it rank 0's state is taken, of however many.
    """

    def __init__(
        self,
        run: Run,
        state: dict[str, Any],
        *,
        given: Mapping[str, Any] | None = None,
        changed: str = "keep",
        environment: Mapping[str, Mapping[str, str]] | None = None,
        emit: Callable[[Event], None],
        in_memory: Callable[[str], Mapping[str, Bytes]] | None = None,
        mirrors: Sequence[Mirror] = (),
        place: Place | None = None,
    ) -> None:
        self._run = run
        self._state = state
        self._given = given
        self._changed = changed
        self._environment = environment
        self._emit = emit
        self._in_memory = in_memory
        self._mirrors = mirrors
        self._place = place

    def newest(self, *, only: Iterable[str] | None = None, strict: bool = True) -> Restored | None:
        """Restore the newest recovery point that verifies, walking back past damaged ones.

        Returns
        -------
        Restored or None
            None for a run without any checkpoint on its line: a fresh start.

        Raises
        ------
        DamagedError
            There are checkpoints, but none that verifies.
        StorageError
            None can be read.
        SignatureError
            Signatures are required, and none is signed by who is trusted.
        RolledBackError
            The repository is older than what was seen of it here.
        """
        before = seen.check(self._run)
        restored = self._newest(only, strict=strict)
        if restored is not None:
            self._compare_with_seen(restored.id, before)
        return restored

    def _newest(self, only: Iterable[str] | None, *, strict: bool) -> Restored | None:
        for attempt in passed_over(self._run.attempts()):
            self._warn(
                f"attempt {attempt.id} does not count: nobody who is trusted here signed what it starts from."
            )
        last: DamagedError | SignatureError | StorageError | None = None
        tried: set[CheckpointId] = set()
        while (checkpoint := self._candidate(tried)) is not None:
            tried.add(checkpoint)
            try:
                return self.one(checkpoint, only=only, strict=strict)
            except NotFoundError:
                continue  # pruned since it was listed, because a newer one was saved
            except DamagedError as error:
                last = error
                self.reject(checkpoint, error)
            except SignatureError as error:  # nothing is known to be damaged: no record
                last = last or error
                self._emit(Rejected(self._run.name, checkpoint.step, error.what, recorded=False))
            except StorageError as error:
                if error.errno != errno.EIO:
                    raise
                last = last or error
                self._emit(Rejected(self._run.name, checkpoint.step, str(error), recorded=False))
        if last is None and not any(c.kind == "full" for c in self._run.lineage()):
            self._warn_of_lost_base()
            return None
        if last is None and self._candidate(tried) is not None:
            return self._newest(only, strict=strict)  # another launch has committed it since we looked
        if isinstance(last, StorageError | SignatureError):
            raise last  # nothing is known to be damaged
        raise self._nothing_left(last)

    def _warn_of_lost_base(self) -> None:
        head = self._run.head()
        if head is not None and head.base is not None:  # such as of a fork that was cut short
            gone = f"step {head.base.step}, from which {self._run.name} was to go on, is not there"
            self._warn(f"{gone}, nor any step before it: nothing is resumed.")

    def _compare_with_seen(self, checkpoint: CheckpointId, before: CheckpointId | None) -> None:
        """Say so if what is resumed from is not the newest that was seen here."""
        if before is not None and seen.is_older(checkpoint, before):
            self._warn(
                f"{self._run.name} goes on from step {checkpoint.step}, although step {before.step}, "
                "which is newer, was seen here before."
            )
        if not seen.note(self._run, checkpoint):
            self._warn(
                "what was seen of this repository cannot be remembered, so a rollback would not be noticed."
            )

    def _warn(self, text: str) -> None:
        self._emit(Warned(self._run.name, text))

    def _candidate(self, tried: Collection[CheckpointId]) -> CheckpointId | None:
        """The best recovery point not tried yet, by what is there now."""
        return next((c for c in self._run.recovery_points() if c not in tried), None)

    def reject(self, checkpoint: CheckpointId, error: DamagedError) -> None:
        """Never restore it again, if its damage is proven; and say so."""
        recorded = error.proven
        if recorded:
            try:
                self._run.reject(checkpoint, error.what)
            except HoldfastError:
                recorded = False
        self._emit(Rejected(self._run.name, checkpoint.step, error.what, recorded))

    def _nothing_left(self, last: DamagedError | None) -> DamagedError:
        why = (
            f" The last one tried: {last.what}" if last is not None else " All of them were rejected before."
        )
        return DamagedError(
            f"No checkpoint of the run {self._run.name} in {self._run.storage.location} verifies.{why}",
            do=f"'holdfast verify {self._run.name}' shows the damage, 'holdfast repair' salvages the rest, "
            f"'holdfast restart {self._run.name}' starts afresh.",
        )

    def one(
        self, checkpoint: CheckpointId, *, only: Iterable[str] | None = None, strict: bool = True
    ) -> Restored:
        """Restore this checkpoint, mended first if need be and if that is possible.

        Raises
        ------
        DamagedError
            It does not verify; the live state may have been written by then.
        MismatchError, ChangedError
            Before anything is touched.
        """
        try:
            return self._read(checkpoint, only, strict=strict)
        except DamagedError:
            if not any(mend(self._run, checkpoint, mirror.place) for mirror in self._mirrors):
                raise
        self._run.repository.index.refresh()
        return self._read(checkpoint, only, strict=strict)

    @collector_paused()
    def _read(self, checkpoint: CheckpointId, only: Iterable[str] | None, *, strict: bool) -> Restored:
        started = time.monotonic()
        hints = self._run.hints(checkpoint)
        held = self._in_memory(str(checkpoint)) if self._in_memory is not None else {}
        reader = self._run.repository.reader
        with self._run.repository.holding(), ExitStack() as stack:
            whole = self._manifest(checkpoint)  # before the disk is busy
            ahead = stack.enter_context(reader.begin(hints if only is None and not held else ()))
            self._check_world_size(whole)
            manifest = of_rank(whole, self._place.rank if self._place is not None else 0)
            resolution, recorded = self._compare(manifest)
            inexact = self._compare_environment(manifest)
            saved = tree.decode(manifest.details.tree)
            plan = walk.plan(self._state, saved, manifest.specs(), only)
            what = f"The checkpoint {self._run.name}@{checkpoint.step}"
            skipped = plan.raise_differences(what, strict=strict)
            with poison.while_writing(self._entries(only)), self._judging(whole, hints):
                reads = recall_tensors(held, manifest, plan.reads) if held else plan.reads
                if reads:
                    read_tensors(reader, manifest, hints, reads, what, ahead)
                plan.finish()
            self._run.repository.dependable |= packs_of(self._run, checkpoint, digests=whole.digests())
        walk.apply_given(self._state, resolution.apply)
        if resolution.warning is not None:
            self._emit(Warned(self._run.name, resolution.warning))
        training = tree.decode(manifest.details.training)
        seconds = time.monotonic() - started
        from_memory = bool(plan.reads) and not reads
        return Restored(
            checkpoint,
            manifest,
            training,
            recorded,
            seconds,
            skipped,
            from_memory,
            altered=bool(resolution.apply),
            inexact=inexact,
        )

    @contextmanager
    def _judging(self, manifest: Manifest, hints: list[str]) -> Iterator[None]:
        try:
            yield
        except DamagedError as error:
            error.proven = self._run.repository.index.proves_damage(manifest.digests(), hints)
            raise

    def _entries(self, only: Iterable[str] | None) -> list[object]:
        return [value for key, value in self._state.items() if only is None or key in only]

    def _manifest(self, checkpoint: CheckpointId) -> Manifest:
        for last in (False,) * (READ_TRIES - 1) + (True,):
            try:
                return trusted_manifest(self._run, checkpoint)
            except StorageError as error:
                if last or error.errno != errno.EIO:
                    raise
                time.sleep(0.2)
        raise AssertionError  # unreachable: the last turn returns or raises

    def _compare_environment(self, manifest: Manifest) -> bool:
        """Say what differs from the environment that wrote it; whether bits may differ by that."""
        if self._environment is None:
            return False
        changes = compare_environment(manifest.details.environment, self._environment)
        if changes.warning is not None:
            self._emit(Warned(self._run.name, changes.warning))
        return bool(changes.inexact)

    def _check_world_size(self, manifest: Manifest) -> None:
        """Refuse a checkpoint of another number of ranks: positions and generators belong to ranks."""
        saved, here = world_size(manifest), self._place
        if here is not None and saved != here.world_size:
            step = manifest.summary.progress.step
            raise UnsupportedError(
                f"{self._run.name}@{step} was saved by {saved} rank{'s' * (saved > 1)}, "
                f"and this training has {here.world_size}.",
                do=f"Start it with {saved}, or give a new run the model alone: "
                f"holdfast.load(..., run={self._run.name!r}, only='model').",
            )

    def _compare(self, manifest: Manifest) -> tuple[Resolution, dict[str, Any]]:
        """What differs from the script that wrote it."""
        recorded = {name: tree.decode(node) for name, node in manifest.details.given.items()}
        if self._given is None:
            return Resolution(), recorded
        if not recorded:  # an import, or saved by hand: nothing to compare
            return Resolution(), dict(self._given)
        differing = compare_given(recorded, self._given)
        resolution = decide_changes(differing, self._changed)  # type: ignore[arg-type]  # checked inside
        return resolution, {**self._given, **recorded} if self._changed == "keep" else dict(self._given)


def check_resume(resume: int | str) -> None:
    """Refuse a ``resume=`` that means nothing.

    Raises
    ------
    UsageError
    """
    if isinstance(resume, bool) or not isinstance(resume, int | str) or resume in ("", "latest"):
        raise UsageError(
            f"resume={resume!r} is unknown.", do='Use "auto", "must", "never", a step, "best" or a tag.'
        )


def restore_for_launch(restorer: Restorer, run: Run, resume: int | str) -> Restored | None:
    """Restore what ``resume=`` asks for at a launch.

    Raises
    ------
    NotFoundError
        ``"must"``, but there is nothing to resume from; or no such step or tag.
    UsageError
        ``"never"``, but the run exists.
    DamagedError
        No record of a launch leads to the checkpoints there are.
    """
    if resume == "never":
        if run.lineage():
            raise UsageError(
                f"The run {run.name} exists already in {run.storage.location}; "
                "resume='never' would start over.",
                do="Choose another run name, use resume='auto', or start it afresh once with "
                f"'holdfast restart {run.name}'.",
            )
        return None
    if resume in ("auto", "must"):
        restored = restorer.newest()
        if restored is None:
            refuse_without_line(run)
        if restored is None and resume == "must":
            raise NotFoundError(
                f"The run {run.name} in {run.storage.location} has nothing to resume from; resume='must'.",
                do="Use resume='auto' to start it.",
            )
        return restored
    checkpoint = run.resolve(resume)
    if checkpoint.kind != "full":
        raise UsageError(
            f"{run.name}@{resume} is thin: it holds the model only, so training cannot resume from it.",
            do="Use holdfast.load(..., only='model') to start another run from its weights.",
        )
    return restorer.one(checkpoint)
