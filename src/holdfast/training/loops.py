"""The loops: what counts as a turn, a step, an epoch, and where the safe points are.

A safe point is the moment a loop of ours is asked for its next turn, the end of an epoch,
or, outside our loops, the return of ``step()``. There alone the training state is settled.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from typing import Any, Protocol

from holdfast.domain.progress import Progress
from holdfast.errors import UsageError
from holdfast.frameworks.rng import capture_rng, restore_rng
from holdfast.training.position import BatchPass


class Host(Protocol):
    """What the loops need of the session they run in."""

    def safe_point(self, *, counted: bool) -> None:
        """Save if one is due and the state is settled; may end the process.

        ``counted`` says that every delivered batch has been counted by a step.
        """
        ...

    def turn(self) -> None:
        """A turn begins."""
        ...

    def leaving(self) -> bool:
        """Whether a signal asked to end, or does so in the next moment."""
        ...

    def leave(self) -> None:
        """End as that signal asks."""
        ...

    def warn(self, text: str) -> None: ...


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
    """Counts turns, steps, epochs and samples, and knows where each pass over data stands.

    Parameters
    ----------
    host : Host
    seed : int
        The data seed of a fresh run.
    """

    def __init__(self, host: Host, seed: int) -> None:
        self._host = host
        self._seed = seed
        self.steps_counted = 0
        self.epochs_counted = 0
        self.stopped: str | None = None
        self.asked = False
        self._stopped_before = False
        self.metrics: dict[str, Any] = {}
        self.unmoved = True
        self._samples = 0
        self._epoch_rng: dict[str, Any] | None = None
        self._passes: list[dict[str, Any]] = []
        self._open: BatchPass | None = None
        self._last_passes: dict[int, dict[str, Any]] = {}
        self._carried: dict[int, dict[str, Any]] = {}
        self._pass_number = 0
        self._resumed: list[dict[str, Any]] = []
        self._resume_rng: dict[str, Any] | None = None
        self._target: int | None = None
        self._steps_limit: int | None = None
        self._in_epochs = False
        self._depth = 0
        self._counted = False
        self._uncounted = 0
        self._cut_short = False

    # -- what the checkpoint keeps -----------------------------------------------------

    @property
    def progress(self) -> Progress:
        delivered, samples = self._in_pass()
        return Progress(self.steps_counted, self.epochs_counted, delivered, self._samples + samples)

    def _in_pass(self) -> tuple[int, int]:
        """Batches and not yet added samples of the pass that is open, or about to be resumed."""
        if self._open is not None:
            return self._open.delivered, self._open.samples
        if len(self._passes) < len(self._resumed):
            pending = self._resumed[len(self._passes)]
            return pending["delivered"], 0 if pending["over"] else pending["samples"]
        return (self._passes[-1]["delivered"] if self._passes else 0), 0

    def state(self) -> dict[str, Any]:
        """Plain values; what `restore` takes."""
        open_state = [self._open.state() | {"over": False}] if self._open is not None else []
        return {
            "step": self.steps_counted,
            "epoch": self.epochs_counted,
            "samples": self._samples,
            "seed": self._seed,
            "pass_number": self._pass_number,
            "passes": [*self._passes, *open_state],
            "last_passes": dict(self._last_passes),
            "epoch_rng": self._epoch_rng,
            "stopped": self.stopped,
            "target": self._target,
        }

    def restore(self, saved: dict[str, Any], rng: dict[str, Any] | None) -> None:
        """Go on where `state` was taken; ``rng`` is that of the safe point."""
        self.steps_counted = saved["step"]
        self.epochs_counted = saved["epoch"]
        self._samples = saved["samples"]
        self._seed = saved["seed"]
        self._pass_number = saved["pass_number"]
        self._resumed = list(saved["passes"])
        self._last_passes = dict(saved["last_passes"])
        self._carried = dict(saved["last_passes"])
        self._epoch_rng = saved["epoch_rng"] if self._resumed else None
        self._resume_rng = rng
        self.stopped = saved["stopped"]
        self._stopped_before = self.stopped is not None
        self._target = saved["target"]

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
        if self._stopped_before and self._target is not None and target > self._target:
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
                if self._cut_short:
                    return
                self._end_epoch()
        finally:
            self._in_epochs, self._steps_limit = False, None

    def _begin_epoch(self) -> None:
        if self._passes:  # an earlier loop was cut short in this epoch
            self._resumed, self._passes = self._passes, []
            self._resume_rng = capture_rng()
        self._cut_short = False
        if self._resumed and self._epoch_rng is not None:
            restore_rng(self._epoch_rng)  # what precedes batches() in the body runs again, alike
        else:
            self._epoch_rng = capture_rng()

    def _end_epoch(self) -> None:
        if not self.steps_counted:
            self._host.warn("an epoch went by without a step(): call it once per step, or nothing is saved.")
        self._last_passes |= dict(enumerate(self._passes))
        self._passes, self._resumed = [], []
        self._epoch_rng = None
        self.epochs_counted += 1
        self.unmoved = False
        self._safe_point()

    def _goes_on(self) -> bool:
        limit = self._steps_limit
        return self.stopped is None and (limit is None or self.steps_counted < limit)

    # -- batches -----------------------------------------------------------------------

    def batches(self, loader: Iterable[Any]) -> Turns:
        """One pass over a loader, from where the run stands."""
        if self._depth:  # inside another turn: no safe point, so it always starts afresh
            inner = self._fresh_pass(loader, None)
            return Turns(lambda: iter(inner), inner.remaining)
        ordinal = len(self._passes)
        saved = self._resumed[ordinal] if ordinal < len(self._resumed) else None
        carried = self._carried.pop(ordinal, None)  # what samplers keep between passes, once after a restore
        if saved is not None and saved["over"]:
            self._passes.append(saved)
            return Turns(self._skip, lambda: 0)
        batch_pass = self._resumed_pass(loader, saved) if saved else self._fresh_pass(loader, carried)
        return Turns(lambda: self._deliver(batch_pass), batch_pass.remaining)

    def _skip(self) -> Iterator[Any]:
        """A pass that was over before the restore; the last such one leaves the RNGs as they were."""
        if len(self._passes) == len(self._resumed) and self._resume_rng is not None:
            restore_rng(self._resume_rng)
            self._resume_rng = None
        return iter(())

    def _resumed_pass(self, loader: Iterable[Any], saved: dict[str, Any]) -> BatchPass:
        number, rng = saved["number"], self._resume_rng
        return BatchPass(loader, seed=self._seed, number=number, saved=saved, resume_rng=rng)

    def _fresh_pass(self, loader: Iterable[Any], saved: dict[str, Any] | None) -> BatchPass:
        number = self._pass_number
        self._pass_number += 1
        return BatchPass(loader, seed=self._seed, number=number, saved=saved)

    def _deliver(self, batch_pass: BatchPass) -> Iterator[Any]:
        self._open = batch_pass
        _ = batch_pass.delivered  # begins the pass
        self._resume_rng = None
        if batch_pass.inexact is not None:
            self._host.warn(f"what follows may not be exact: {batch_pass.inexact}.")
        try:
            while self._goes_on():
                try:
                    batch = next(batch_pass)
                except StopIteration:
                    return
                except Exception:
                    self._save_before_dying()
                    raise
                yield from self._turn(batch)
            self._cut_short = True
        finally:
            self._close(batch_pass)

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
        self._uncounted = 0 if self._counted else self._uncounted + 1
        self._safe_point()

    def _close(self, batch_pass: BatchPass) -> None:
        self._open = None
        self._samples += batch_pass.samples
        self._passes.append(batch_pass.state() | {"over": not self._cut_short})
        batch_pass.close()
        if not self._in_epochs and not self._cut_short:
            self._last_passes[0] = self._passes[-1]
            self._passes, self._resumed = [], []
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

    def step(self, metrics: dict[str, Any]) -> int:
        """Count one step; outside our loops this is the safe point."""
        self.steps_counted += 1
        self.metrics = metrics
        self.unmoved = False
        self._counted = True
        if not self._depth and not self._in_epochs:
            self._safe_point()
            self._host.turn()
        return self.steps_counted

    @property
    def between_turns(self) -> bool:
        """Whether the caller is outside all loops, so that the state is as settled as it gets."""
        return not self._depth and not self._in_epochs

    def _safe_point(self) -> None:
        if self._depth:
            return  # a turn of an outer loop is under way
        self._host.safe_point(counted=self._uncounted == 0)
