"""The loops: what counts as a turn, a step, an epoch, and where the safe points are.

Which passes over data these turns belong to is kept in `holdfast.training.passes`.

A safe point is the moment a loop of ours is asked for its next turn, the end of an epoch,
or, outside our loops, the return of ``step()``. There alone the training state is settled.
"""

from __future__ import annotations

import weakref
from collections.abc import Callable, Generator, Iterable, Iterator, Mapping
from typing import Any

from holdfast.domain.progress import Progress
from holdfast.errors import UsageError
from holdfast.frameworks.rng import capture_rng, restore_rng
from holdfast.training.host import Host
from holdfast.training.passes import Passes
from holdfast.training.position import BatchPass, positioned


class Turns:
    """A sized iterable over the turns of a loop, so that tqdm and len() work."""

    def __init__(self, turns: Callable[[], Iterator[Any]], size: Callable[[], int | None]) -> None:
        self._turns = turns
        self._size = size

    def __iter__(self) -> Iterator[Any]:
        return self._turns()

    def __len__(self) -> int:
        size = self._size()
        if size is None:
            raise TypeError("this loader has no length")
        return size


class Loops:
    """Counts turns, steps and epochs, and says when the state is settled.

    Parameters
    ----------
    host : Host
    seed : int
        The data seed of a fresh run.
    skip : mapping
        After so many steps, how many batches are passed over.
    """

    def __init__(self, host: Host, seed: int, skip: Mapping[int, int] | None = None) -> None:
        self._host = host
        self._skip = dict(skip or {})
        self._passes = Passes(seed)
        self.steps_counted = 0
        self.epochs_counted = 0
        self.stopped: str | None = None
        self.asked = False
        self._stopped_at: int | None = None
        self.metrics: dict[str, Any] = {}
        self.unmoved = True
        self._epoch_rng: dict[str, Any] | None = None
        self._turns_open: Callable[[], Generator[Any] | None] = lambda: None
        self._resume_rng: dict[str, Any] | None = None
        self._target: int | None = None
        self._steps_limit: int | None = None
        self._in_epochs = False
        self._depth = 0
        self._counted = False
        self._uncounted = 0
        self._told_of_nested = False

    # -- what the checkpoint keeps -----------------------------------------------------

    @property
    def progress(self) -> Progress:
        return Progress(self.steps_counted, self.epochs_counted, *self._passes.delivered())

    def state(self) -> dict[str, Any]:
        """Plain values; what `restore` takes."""
        return {
            "step": self.steps_counted,
            "epoch": self.epochs_counted,
            **self._passes.state(),
            "epoch_rng": self._epoch_rng,
            "stopped": self.stopped,
            "target": self._target,
        }

    def go_on(self, saved: dict[str, Any] | None, progress: Progress, rng: dict[str, Any] | None) -> None:
        """Go on where `state` was taken; ``rng`` is that of the safe point.

        Of an import, or what was saved by hand, only the progress is known.
        """
        if saved is None:
            self.steps_counted, self.epochs_counted = progress.step, progress.epoch
            return
        self.steps_counted = saved["step"]
        self.epochs_counted = saved["epoch"]
        self._passes.restore(saved)
        self._epoch_rng = saved["epoch_rng"]
        self._resume_rng = rng
        self.stopped = saved["stopped"]
        self._target = saved["target"]
        self._stopped_at = self._target if self.stopped is not None else None

    # -- epochs ------------------------------------------------------------------------

    def epochs(self, count: int | None, steps: int | None) -> Turns:
        """Epochs up to ``count`` in all, or until ``steps`` steps in all are counted."""
        if (count is None) == (steps is None):
            raise UsageError(
                "epochs() takes a number of epochs or steps=.", do="Write epochs(10) or epochs(steps=1000)."
            )
        target = count if count is not None else steps
        if not isinstance(target, int) or target < 0:
            raise UsageError(f"epochs({target!r}) is not a number of turns.", do="Write epochs(10).")
        self._accept_target(target)
        left = None if count is None else max(count - self.epochs_counted, 0)
        return Turns(lambda: self._epochs(count, steps), lambda: 0 if self.stopped else left)

    def _accept_target(self, target: int) -> None:
        self.asked = True
        if self._stopped_at is not None and target > self._stopped_at:
            self.stopped = None  # the run is extended
        self._target = target

    def _epochs(self, count: int | None, steps: int | None) -> Iterator[int]:
        if self._in_epochs or self._depth:
            raise UsageError(
                "epochs() runs inside another loop.", do="Use one epochs() and batches() inside it."
            )
        self._in_epochs, self._steps_limit = True, steps
        try:
            while self._goes_on() and (count is None or self.epochs_counted < count):
                self._begin_epoch()
                yield self.epochs_counted
                if (turns := self._turns_open()) is not None:
                    turns.close()  # somebody holds on to it: it was left as if by break
                if self._passes.cut_short:
                    return
                self._end_epoch()
            if self.epochs_counted == count or self.steps_counted == steps:
                self._return_to_safe_point()
        finally:
            self._in_epochs, self._steps_limit = False, None

    def _begin_epoch(self) -> None:
        self._passes.cut_short = False
        if self._epoch_rng is None:
            self._return_to_safe_point()
            self._epoch_rng = capture_rng()
            return
        self._passes.come_again()
        if self._resume_rng is None:
            self._resume_rng = capture_rng()
        restore_rng(self._epoch_rng)  # what precedes batches() in the body runs again, alike

    def _return_to_safe_point(self) -> None:
        """Undo what the script drew from the RNGs between the restore and here: it drew that before, too."""
        if self._resume_rng is not None:
            restore_rng(self._resume_rng)
            self._resume_rng = None

    def _end_epoch(self) -> None:
        if not self.steps_counted:
            self._host.warn("an epoch went by without a step(): call it once per step, or nothing is saved.")
        self._passes.end_epoch()
        self._epoch_rng = None
        self.epochs_counted += 1
        self.unmoved = False
        self._safe_point()

    def _goes_on(self) -> bool:
        limit = self._steps_limit
        return self.stopped is None and (limit is None or self.steps_counted < limit)

    # -- batches -----------------------------------------------------------------------

    def batches(self, loader: Iterable[Any]) -> Turns:
        """One pass over a loader each time it is iterated, from where the run stands."""
        positioned(loader)  # refuses at once
        inside = self._depth > 0

        def turns() -> Iterator[Any]:
            begun: list[Callable[[], Generator[Any] | None]] = []
            iterator = self._deliver(loader, begun, inside=inside)
            begun.append(weakref.ref(iterator))
            return iterator

        return Turns(turns, lambda: self._left(loader, inside=inside))

    def _left(self, loader: Iterable[Any], *, inside: bool) -> int | None:
        """Batches still to come; looks only, for a pass begins when it is iterated."""
        if inside:
            return positioned(loader).batches()
        return self._passes.left(loader) if self._goes_on() else 0

    def _deliver(
        self, loader: Iterable[Any], begun: list[Callable[[], Generator[Any] | None]], *, inside: bool
    ) -> Generator[Any]:
        if inside and self._depth:
            yield from self._nested(loader)
            return
        if self._depth:
            raise UsageError(
                "A loop over batches() was begun within the turn of another loop, but made outside of it.",
                do="Iterate over one batches() at a time, without zip(): join the data in one loader. "
                "Instead of next() within steps(), iterate over epochs(steps=...) and batches().",
            )
        if not self._goes_on():
            self._passes.cut_short = True
            return
        batch_pass = self._passes.begin(loader, self._resume_rng)
        if batch_pass is not None:
            self._turns_open = begun[0]
            yield from self._pass(batch_pass)
        elif self._passes.all_resumed:  # the last of them leaves the RNGs as they were
            self._return_to_safe_point()

    def _nested(self, loader: Iterable[Any]) -> Iterator[Any]:
        """A pass inside another turn: no safe point lies within, so it always starts afresh."""
        inner = self._passes.fresh(loader)
        try:
            yield from inner
        finally:
            if not self._told_of_nested and inner.keeps_own_state():
                self._told_of_nested = True
                self._host.warn(
                    f"the {type(loader).__name__} iterated in a turn has a generator or state of its own: "
                    "it is kept only if it is in the state dict, and what follows a restore exact only then."
                )
            inner.close()

    def _pass(self, batch_pass: BatchPass) -> Iterator[Any]:
        _ = batch_pass.delivered  # begins the pass
        self._resume_rng = None
        if batch_pass.inexact is not None:
            self._host.warn(f"what follows may not be exact: {batch_pass.inexact}.")
        uncounted, cut = self._uncounted, None
        try:
            while self._goes_on():
                try:
                    batch = next(batch_pass)
                except StopIteration:
                    return
                except Exception:
                    self._save_before_dying()
                    raise
                if not self._is_passed_over():
                    yield from self._turn(batch)
            cut = self._passes.cut(batch_pass)
        finally:
            if not self._passes.trained:
                self._uncounted = uncounted  # an evaluation leaves the training state settled
            self._close(batch_pass, cut)

    def _is_passed_over(self) -> bool:
        """Whether this batch lies in a window that is to be left out."""
        at, left = self.steps_counted, self._skip.get(self.steps_counted, 0)
        if left:
            self._skip[at] = left - 1
            self._host.warn(
                f"a batch after step {at} is passed over, as asked: this run is another from here on."
            )
        return left > 0

    def _save_before_dying(self) -> None:
        """A signal to the whole group killed the data workers too: that must not cost the save."""
        if self._host.leaving():
            self._safe_point()
            self._host.leave()

    def _turn(self, value: Any) -> Iterator[Any]:
        self._host.turn()
        self._counted = False
        self.unmoved = False
        self._depth += 1
        try:
            yield value
        finally:
            self._depth -= 1
            if self._counted:
                self._uncounted = 0
        self._uncounted += not self._counted
        self._safe_point()

    def _close(self, batch_pass: BatchPass, cut: dict[str, Any] | None) -> None:
        self._turns_open = lambda: None
        last = self._passes.close(batch_pass, cut)
        if last["over"] and not self._in_epochs and self._passes.end_own_epoch(last):
            self.epochs_counted += 1

    # -- steps -------------------------------------------------------------------------

    def steps(self, total: int) -> Turns:
        """Turns that count one step each, up to ``total`` in all."""
        if not isinstance(total, int) or total < 0:
            raise UsageError(f"steps({total!r}) is not a number of steps.", do="Write steps(1000).")
        self._accept_target(total)
        return Turns(lambda: self._steps(total), lambda: max(total - self.steps_counted, 0))

    def _steps(self, total: int) -> Iterator[int]:
        while self._goes_on() and self.steps_counted < total:
            if not self._depth:
                self._return_to_safe_point()
            self._host.turn()
            self._counted = False
            self._depth += 1
            try:
                yield self.steps_counted
                if not self._counted:
                    self.step({})
            finally:
                self._depth -= 1
            self._uncounted = 0
            self._safe_point()
        if self.steps_counted == total and not self._depth:
            self._return_to_safe_point()

    def step(self, metrics: dict[str, Any]) -> int:
        """Count one step; outside our loops this is the safe point."""
        self.steps_counted += 1
        self.metrics = metrics
        self.unmoved = False
        self._counted = self._passes.trained = True
        self._resume_rng = None
        self._host.stepped(self.steps_counted, metrics)
        if not self._depth and not self._in_epochs:
            self._safe_point()
            self._host.turn()
        return self.steps_counted

    def stop(self, reason: str) -> None:
        """End the loops at the end of the present turn."""
        self.stopped = reason

    @property
    def between_turns(self) -> bool:
        """Whether the caller is outside all loops, so that the state is as settled as it gets."""
        return not self._depth and not self._in_epochs

    def _safe_point(self) -> None:
        if self._depth:
            return  # a turn of an outer loop is under way
        self._host.safe_point(counted=self._uncounted == 0)
