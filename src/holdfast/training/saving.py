"""Saving at a safe point: capture, commit, retention, and what to do when storage fails."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from holdfast.domain.events import Event, Saved, SaveFailed, SavingResumed, Warned
from holdfast.domain.names import AttemptId, CheckpointId
from holdfast.domain.progress import Progress
from holdfast.errors import BusyError, HoldfastError, StorageError, SupersededError, UsageError
from holdfast.frameworks import registry, walk
from holdfast.repository.commit import Committed, Draft, commit, encode_details
from holdfast.repository.run import Run
from holdfast.training.collecting import collector_paused
from holdfast.training.retaining import Retention

FIRST_PAUSE_SECONDS = 5.0
LONGEST_PAUSE_SECONDS = 300.0
SPARE_BYTES = 16 * 1024 * 1024


class Save:
    """A save that was asked for; done once it is durable, failed, or skipped.

    Attributes
    ----------
    checkpoint : CheckpointId or None
        Set once the save is durable.
    error : HoldfastError or None
        Why it failed or was skipped; or, of a durable one, why it could not be tagged.
    """

    def __init__(self, tag: str | None = None) -> None:
        self.tag = tag
        self.checkpoint: CheckpointId | None = None
        self.error: HoldfastError | None = None

    @property
    def done(self) -> bool:
        return self.checkpoint is not None or self.error is not None

    def wait_durable(self, timeout_seconds: float | None = None) -> CheckpointId:
        """Return the checkpoint once it is durable.

        Raises
        ------
        HoldfastError
            The save failed: its error. UsageError if the loop has not reached the safe point
            at which it happens, which waiting would prevent.
        """
        if self.error is not None:
            raise self.error
        if self.checkpoint is None:
            raise UsageError(
                "This save happens when the present turn of the loop ends, so it cannot be waited for here.",
                do="Look at it in the next turn, or save outside the loops.",
            )
        return self.checkpoint


class SavePoint:
    """What is saved at one safe point, besides the user's state.

    Attributes
    ----------
    progress : Progress
    training : dict[str, Any]
        RNGs and data position.
    metrics : dict[str, Any]
        Raw values: numbers or 0-d tensors.
    done : bool
        Whether the run is finished.
    """

    def __init__(
        self, progress: Progress, training: dict[str, Any], metrics: Mapping[str, Any], *, done: bool
    ) -> None:
        self.progress = progress
        self.training = training
        self.metrics = metrics
        self.done = done


class Saver:
    """Saves the state of one attempt."""

    def __init__(
        self,
        run: Run,
        attempt: AttemptId,
        state: Mapping[str, Any],
        *,
        parent: CheckpointId | None,
        given: dict[str, Any],
        environment: dict[str, dict[str, str]],
        monitor: str | None,
        on_fault: str,
        emit: Callable[[Event], None],
        retention: Retention,
    ) -> None:
        self._run = run
        self._attempt = attempt
        self._state = state
        self._parent = parent
        self._given = given
        self._environment = environment
        self._monitor = monitor
        self._on_fault = on_fault
        self._emit = emit
        self._retention = retention
        self._sequence = 0
        self._failures = 0
        self._not_finite = 0
        self._retry_at = 0.0
        self._typical_bytes: int | None = None
        self.save_seconds: float | None = None
        self.saved_at = time.monotonic()

    def paused(self) -> bool:
        """Whether a fault is too fresh to try again for a rule's sake."""
        return self._failures > 0 and time.monotonic() < self._retry_at

    @collector_paused()
    def save(self, point: SavePoint, reason: str, asked: Sequence[Save], *, loud: bool, insist: bool) -> None:
        """Save now, once for all that asked; each has the outcome.

        Parameters
        ----------
        loud : bool
            Say why nothing was saved even if that was said before: somebody asked for this one.
        insist : bool
            Raise a storage fault even where faults pause: the last chance to save.

        Raises
        ------
        SupersededError
            A newer attempt has taken over the run.
        StorageError
            With ``on_fault="raise"``, or ``insist``.
        """
        metrics = self._numbers(point.metrics)
        if not math.isfinite(metrics.get("loss", 0.0)):
            self._skipped(point.progress.step, metrics["loss"], asked, loud=loud)
            return
        started = time.monotonic()
        try:
            committed = self._save(point, reason, metrics)
        except (StorageError, BusyError) as error:
            for save in asked:
                save.error = error
            self._fault(point.progress.step, error, loud=loud, insist=insist)
            return
        for save in asked:
            self._answer(save, committed)
        self._retention.after(committed)
        self.save_seconds = time.monotonic() - started
        self.saved_at = time.monotonic()

    def _answer(self, save: Save, committed: Committed) -> None:
        save.checkpoint = committed.id
        if save.tag is None:
            return
        try:
            self._run.set_tag(save.tag, committed.id)
        except HoldfastError as error:
            save.error = error
            self._emit(
                Warned(
                    self._run.name,
                    f"{self._run.name}@{committed.id.step} was saved, but not tagged {save.tag}: {error}",
                )
            )

    def _save(self, point: SavePoint, reason: str, metrics: dict[str, float]) -> Committed:
        self._check_attempt()
        self._retention.before()
        draft = self._draft(point, reason, metrics)
        self._check_space(draft)
        committed = commit(self._run, draft)
        self._committed(committed, reason)
        return committed

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

    def _skipped(self, step: int, loss: float, asked: Sequence[Save], *, loud: bool) -> None:
        error = UsageError(
            f"Step {step} was not saved: its loss is {loss}.",
            do="Earlier checkpoints stand; saving goes on once the loss is finite again.",
        )
        for save in asked:
            save.error = error
        self._not_finite += 1
        if loud or _is_rare(self._not_finite):
            self._emit(Warned(self._run.name, str(error)))

    def _numbers(self, metrics: Mapping[str, Any]) -> dict[str, float]:
        return {name: registry.scalar(value, name) for name, value in metrics.items()}

    def _draft(self, point: SavePoint, reason: str, metrics: dict[str, float]) -> Draft:
        captured = walk.capture(self._state)
        self._sequence += 1
        return Draft(
            attempt=self._attempt,
            sequence=self._sequence,
            progress=point.progress,
            reason=reason,
            sources=captured.tensors,
            tree=captured.tree,
            training=point.training,
            given=self._given,
            environment=self._environment,
            metrics=metrics,
            parent=self._parent,
            done=point.done,
            monitor=self._monitor,
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
                f"too little for a checkpoint of {need_bytes / 1e6:.0f} MB.",
                do="Make room there.",
            )

    def _committed(self, committed: Committed, reason: str) -> None:
        if self._failures:
            self._emit(SavingResumed(self._run.name, committed.id.step, self._failures))
        self._failures = self._not_finite = 0
        self._typical_bytes = max(committed.new_bytes, self._typical_bytes or 0)
        self._parent = committed.id
        self._emit(
            Saved(
                self._run.name,
                committed.id.step,
                reason,
                committed.seconds,
                committed.summary.size_bytes,
                committed.new_bytes,
            )
        )

    def _fault(self, step: int, error: StorageError | BusyError, *, loud: bool, insist: bool) -> None:
        self._failures += 1
        pause_seconds = min(FIRST_PAUSE_SECONDS * 2 ** (self._failures - 1), LONGEST_PAUSE_SECONDS)
        self._retry_at = time.monotonic() + pause_seconds
        if self._on_fault == "raise" or insist:
            raise error
        if loud or _is_rare(self._failures):
            self._emit(SaveFailed(self._run.name, step, str(error), self._failures))


def check_representable(state: Mapping[str, Any], given: dict[str, Any]) -> None:
    """Refuse at once what no save could keep, rather than at the first save.

    Raises
    ------
    UnsupportedError
        Names the path of the value.
    """
    captured = walk.capture(state)
    encode_details(
        Draft(
            attempt=AttemptId(0, ""),
            sequence=0,
            progress=Progress(),
            reason="",
            sources=captured.tensors,
            tree=captured.tree,
            given=given,
        )
    )


def _is_rare(count: int) -> bool:
    """Say it the 1st, 2nd, 4th, 8th ... time: once, then rarely."""
    return count & (count - 1) == 0
