"""Saving at a safe point: capture, hand over, and what to do when storage fails."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import msgspec

from holdfast.domain.events import Event, Saved, SaveFailed, SavingResumed, Warned
from holdfast.domain.names import AttemptId
from holdfast.domain.progress import Progress
from holdfast.domain.save_costs import SaveCosts
from holdfast.errors import BusyError, HoldfastError, RankError, StorageError, UsageError
from holdfast.frameworks import registry, walk
from holdfast.frameworks.remembering import Memory
from holdfast.repository.collecting import collector_paused
from holdfast.repository.commit import Draft, encode_details
from holdfast.training.fencing import chosen_mode
from holdfast.training.leaves import leaves
from holdfast.training.saves import Save
from holdfast.training.staging import Versions
from holdfast.training.unwritten import Unwritten
from holdfast.training.ways import Outcome, Way

FIRST_PAUSE_SECONDS = 5.0
LONGEST_PAUSE_SECONDS = 300.0
LONGEST_WAIT_SECONDS = 1.0
"""For how long the loop is out of reach of Python's signal handlers at most."""


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


class _Open(msgspec.Struct, frozen=True):
    """A draft whose outcome is not known yet."""

    step: int
    epoch: int
    reason: str
    asked: list[Save]
    loud: bool
    insist: bool
    metrics: dict[str, float]


class Saver:
    """Saves the state of one attempt.

    Parameters
    ----------
    way : Way
        How its drafts become durable.
    given, environment
        Recorded with each checkpoint.
    monitor : str, optional
        The metric that decides what is best, and how: ``val_loss min``.
    on_fault : {"pause", "raise"}
    emit : callable
        Takes every event.

    Attributes
    ----------
    hold_seconds : float or None
        What the last snapshot cost training that stayed in memory.
    saved_at, held_at : float
        When they were taken, on the monotonic clock.
    lost : bool
        A save that was taken has failed since: what it held is not durable.
    durable : tuple[int, int]
        Step and epoch of the last save known to be durable, or of the start.
    left_out : int
        Saves that were due but gave way, because storage does not keep up.
    """

    def __init__(
        self,
        run_name: str,
        attempt: AttemptId,
        state: Mapping[str, Any],
        way: Way,
        *,
        given: dict[str, Any],
        environment: dict[str, dict[str, str]],
        monitor: str | None,
        on_fault: str,
        emit: Callable[[Event], None],
    ) -> None:
        self._run_name = run_name
        self._attempt = attempt
        self._state = state
        self._memory = Memory()
        self._unwritten = Unwritten(chosen_mode())
        self._way = way
        self._given = given
        self._environment = environment
        self._monitor = monitor
        self._on_fault = on_fault
        self._emit = emit
        self._sequence = 0
        self._open: dict[int, _Open] = {}
        self._failures = 0
        self._not_finite = 0
        self._retry_at = 0.0
        self.lost = False
        self.durable = (0, 0)
        self.left_out = 0
        self._costs = SaveCosts()
        self.hold_seconds: float | None = None
        self.saved_at = self.held_at = time.monotonic()

    @property
    def burden_seconds(self) -> float | None:
        """What a save costs training, by the last ones; None before the first of this attempt."""
        return self._costs.seconds

    def stepped(self) -> None:
        """A step was counted."""
        self._costs.stepped(time.monotonic(), saving=bool(self._open))

    def paused(self) -> bool:
        """Whether a fault is too fresh to try again for a rule's sake."""
        return self._failures > 0 and time.monotonic() < self._retry_at

    @collector_paused()
    def save(self, point: SavePoint, reason: str, asked: list[Save], *, loud: bool, insist: bool) -> bool:
        """Save now, once for all that asked; each has the outcome once it is known.

        Parameters
        ----------
        loud : bool
            Say why nothing was saved even if that was said before: somebody asked for this one.
        insist : bool
            Wait until it is durable, and raise a storage fault even where faults pause: the
            last chance to save.

        Returns
        -------
        bool
            Whether the state was taken: it is durable, or becomes so while training goes on.

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
            return False
        versions = self._versions()
        draft = self._draft(point, reason, metrics, versions)
        progress = point.progress
        self._open[draft.sequence] = _Open(
            progress.step, progress.epoch, reason, asked, loud, insist, metrics
        )
        for save in asked:
            save._wait, save._wait_uploaded = self._wait_for(save), self._way.wait_uploaded
        try:
            self._way.submit(draft, [s.tag for s in asked if s.tag], urgent=loud or insist, versions=versions)
        except BaseException:
            del self._open[draft.sequence]
            raise
        self.saved_at = self.held_at = time.monotonic()
        self.wait() if insist else self.poll()
        return all(save.error is None or save.checkpoint is not None for save in asked)

    @collector_paused()
    def hold(self, point: SavePoint, reason: str) -> None:
        """Hold a snapshot in memory, for a successor of this process; it never touches the disk before.

        Raises
        ------
        UnsupportedError
            As from `save`.
        """
        started = time.monotonic()
        metrics = self._numbers(point.metrics)
        if math.isfinite(metrics.get("loss", 0.0)):
            versions = self._versions()
            self._way.keep(self._draft(point, reason, metrics, versions), versions=versions)
            self.held_at = time.monotonic()
            self.hold_seconds = self.held_at - started

    def prepare(self) -> None:
        """Get ready for the first save: what it needs is made while training goes on."""
        self._way.prepare(self._size_bytes)

    def _size_bytes(self) -> int:
        tensors = walk.capture(self._state, self._memory).tensors
        return sum(source.spec.size_bytes for source in tensors.values())

    def gives_way(self, step: int) -> bool:
        """Whether a save that nobody asked for is left out, because earlier ones are still on their way."""
        if self._way.has_room():
            return False
        self.left_out += 1
        if _is_rare(self.left_out):
            times = f" ({self.left_out} so far)" if self.left_out > 1 else ""
            self._emit(
                Warned(
                    self._run_name, f"step {step} was not saved{times}: storage does not keep up with saves."
                )
            )
        return True

    def poll(self) -> None:
        """Learn what became of earlier saves, and report it."""
        if self._open:
            self._settle(self._way.outcomes())

    def wait(self, timeout_seconds: float | None = None) -> None:
        """Wait until nothing is open, or for so long."""
        deadline = math.inf if timeout_seconds is None else time.monotonic() + timeout_seconds
        while self._open and (left := deadline - time.monotonic()) > 0:
            self._settle(self._way.outcomes(min(left, LONGEST_WAIT_SECONDS)))

    def let_finish(self, grace_seconds: float) -> None:
        """Nothing more is saved, but what was taken before is not left in doubt."""
        try:
            self.wait(grace_seconds)
        except HoldfastError as error:
            self._emit(Warned(self._run_name, str(error)))

    def before_step(self) -> None:
        """An optimizer is about to step."""
        self._way.before_step()

    def _versions(self) -> dict[tuple[int, int], Callable[[], int]]:
        values = leaves(self._state)
        found: dict[tuple[int, int], Callable[[], int]] = {}
        for framework in registry.active():
            found |= framework.changed_by_steps_only(values)
        return found

    def close(self, *, done: bool) -> None:
        """Let go of what makes drafts durable; ``done``: no successor is expected soon."""
        self._way.close(done=done)
        self._unwritten.close()

    def _wait_for(self, save: Save) -> Callable[[float | None], None]:
        def wait(timeout_seconds: float | None) -> None:
            deadline = math.inf if timeout_seconds is None else time.monotonic() + timeout_seconds
            while not save.done and (left := deadline - time.monotonic()) > 0:
                self._settle(self._way.outcomes(min(left, LONGEST_WAIT_SECONDS)))

        return wait

    def _settle(self, outcomes: list[Outcome]) -> None:
        known = [outcome for outcome in outcomes if outcome.sequence in self._open]  # not of a save cut short
        decided = [(self._open.pop(outcome.sequence), outcome) for outcome in known]
        for saved, outcome in decided:  # all of them, before the error of any is raised
            for save in saved.asked:
                save._settle(outcome)
        for saved, outcome in decided:
            if outcome.replaced:
                self.left_out += 1
            elif outcome.error is None:
                self._saved(saved, outcome)
            else:
                self._failed(saved, outcome.error)

    def _skipped(self, step: int, loss: float, asked: Sequence[Save], *, loud: bool) -> None:
        error = UsageError(
            f"Step {step} was not saved: its loss is {loss}.",
            do="Earlier checkpoints stand; saving goes on once the loss is finite again.",
        )
        for save in asked:
            save.error = error
        self._not_finite += 1
        if loud or _is_rare(self._not_finite):
            self._emit(Warned(self._run_name, str(error)))

    def _numbers(self, metrics: Mapping[str, Any]) -> dict[str, float]:
        return {name: registry.scalar(value, name) for name, value in metrics.items()}

    def _draft(self, point: SavePoint, reason: str, metrics: dict[str, float], versions: Versions) -> Draft:
        captured = walk.capture(self._state, self._memory)
        self._sequence += 1
        stepped = {address for address, _ in versions}
        unchanged = self._unwritten.among(captured.tensors, self._sequence, stepped)
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
            done=point.done,
            monitor=self._monitor,
            left_out=unchanged.left_out,
            compared=unchanged.compared,
            unchanged_since=unchanged.since,
        )

    def _saved(self, saved: _Open, outcome: Outcome) -> None:
        if self._failures:
            self._emit(SavingResumed(self._run_name, saved.step, self._failures))
        self._failures = self._not_finite = 0
        self._unwritten.durable(outcome.sequence)
        self._costs.saved(outcome.stall_seconds, outcome.share_seconds)
        self.durable = (saved.step, saved.epoch)
        self._emit(
            Saved(
                self._run_name,
                saved.step,
                saved.reason,
                outcome.seconds,
                outcome.size_bytes,
                outcome.new_bytes,
                str(outcome.checkpoint),
                saved.metrics,
                outcome.burden_seconds,
            )
        )

    def _failed(self, saved: _Open, error: HoldfastError) -> None:
        self.lost = True
        self._unwritten.forget()
        if not isinstance(error, StorageError | BusyError | RankError):
            raise error
        self._failures += 1
        pause_seconds = min(FIRST_PAUSE_SECONDS * 2 ** (self._failures - 1), LONGEST_PAUSE_SECONDS)
        if isinstance(error, RankError):
            pause_seconds = 0.0  # no storage has failed
        self._retry_at = time.monotonic() + pause_seconds
        if self._on_fault == "raise" or saved.insist:
            raise error
        if saved.loud or _is_rare(self._failures):
            self._emit(SaveFailed(self._run_name, saved.step, str(error), self._failures))


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
