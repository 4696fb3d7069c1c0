"""The passes over data of a run: which of an epoch's are done, which is open, which come again."""

from __future__ import annotations

from typing import Any
from weakref import ref

from holdfast.frameworks.base import PositionedLoader
from holdfast.training.position import BatchPass, positioned


class Passes:
    """Numbers passes, counts samples, and finds for each pass what was kept of it or of the one before.

    Parameters
    ----------
    seed : int
        The data seed of a fresh run.

    Attributes
    ----------
    trained : bool
        Whether a step was counted in the open pass: else it is an evaluation.
    cut_short : bool
        Whether the last pass was left because its loop ended, so that it is gone on with later.
    """

    def __init__(self, seed: int) -> None:
        self._seed = seed
        self._samples = 0
        self._number = 0
        self._done: list[dict[str, Any]] = []
        self._resumed: list[dict[str, Any]] = []
        self._last: dict[int, dict[str, Any]] = {}
        self._carried: dict[int, dict[str, Any]] = {}
        self._open: BatchPass | None = None
        self._views: dict[int, ref[PositionedLoader]] = {}
        self._last_views: dict[int, ref[PositionedLoader]] = {}
        self.trained = False
        self.cut_short = False

    # -- what the checkpoint keeps -----------------------------------------------------

    def delivered(self) -> tuple[int, int]:
        """Batches of the pass that is open, or about to be resumed; and samples in all."""
        batches, samples = self._in_pass()
        return batches, self._samples + samples

    def _in_pass(self) -> tuple[int, int]:
        if self._open is not None:
            return self._open.delivered, self._open.samples
        last = self._pending() or (self._done[-1] if self._done else None)
        if last is None:
            return 0, 0
        return last["delivered"], 0 if last["over"] else last["samples"]  # those are counted already

    def state(self) -> dict[str, Any]:
        """Plain values; what `restore` takes."""
        open_state = [self._state(self._open, over=False)] if self._open is not None else []
        return {
            "samples": self._samples,
            "seed": self._seed,
            "pass_number": self._number,
            "passes": [*self._done, *open_state],
            "last_passes": dict(self._last) if open_state or self._done else self._left(),
        }

    def _left(self) -> dict[int, dict[str, Any]]:
        """The last passes, and what their loaders' generators have moved since: between epochs."""
        last = dict(self._last)
        for ordinal, view in self._last_views.items():
            if (live := view()) is not None and ordinal in last:
                last[ordinal] = last[ordinal] | {"loader": live.left(last[ordinal]["loader"])}
        return last

    def _state(self, batch_pass: BatchPass, *, over: bool) -> dict[str, Any]:
        return batch_pass.state() | {"over": over, "trained": self.trained}

    def restore(self, saved: dict[str, Any]) -> None:
        """Go on where `state` was taken."""
        self._samples = saved["samples"]
        self._seed = saved["seed"]
        self._number = saved["pass_number"]
        self._resumed = list(saved["passes"])
        self._last = dict(saved["last_passes"])
        self._views, self._last_views = {}, {}
        self._carried = dict(saved["last_passes"])

    # -- beginning ---------------------------------------------------------------------

    def left(self, loader: object) -> int | None:
        """Batches still to come of the next pass, where known."""
        total, saved = positioned(loader).batches(), self._pending()
        if saved is None or total is None:
            return total
        before = saved["total"] or total  # another number of them if the batch size was changed
        return 0 if saved["over"] else max(total - round(saved["delivered"] * total / before), 0)

    def _pending(self) -> dict[str, Any] | None:
        """The pass that comes next, if it is one that was begun before the restore."""
        ordinal = len(self._done)
        return self._resumed[ordinal] if ordinal < len(self._resumed) else None

    @property
    def all_resumed(self) -> bool:
        """Whether every pass begun before the restore has come again."""
        return len(self._done) == len(self._resumed)

    def begin(self, loader: object, resume_rng: dict[str, Any] | None) -> BatchPass | None:
        """Open the next pass; None if it was over before the restore."""
        saved, carried = self._pending(), self._carried.pop(len(self._done), None)
        if saved is not None and saved["over"]:
            self._done.append(saved)
            return None
        if saved is not None:
            self._open = self._again(loader, saved, resume_rng)
        else:
            self._open = self.fresh(loader, carried)
        self.trained = saved is not None and saved.get("trained", True)
        return self._open

    def _again(self, loader: object, saved: dict[str, Any], rng: dict[str, Any] | None) -> BatchPass:
        return BatchPass(loader, seed=self._seed, number=saved["number"], saved=saved, resume_rng=rng)

    def fresh(self, loader: object, carried: dict[str, Any] | None = None) -> BatchPass:
        """A pass from the loader's beginning, numbered but not opened."""
        number = self._number
        self._number += 1
        return BatchPass(loader, seed=self._seed, number=number, saved=carried)

    def come_again(self) -> None:
        """Begin anew an epoch in which an earlier loop was cut short: its passes are gone on with."""
        if self._done:
            self._resumed, self._done = self._done, []

    # -- ending ------------------------------------------------------------------------

    def cut(self, batch_pass: BatchPass) -> dict[str, Any] | None:
        """Where a pass is left that the loop's end cuts short; None if it is over just then."""
        state = self._state(batch_pass, over=False)
        if batch_pass.remaining() == 0:
            try:
                next(batch_pass)
            except StopIteration:
                return None
        return state

    def close(self, batch_pass: BatchPass, cut: dict[str, Any] | None) -> dict[str, Any]:
        """Close the open pass and return its state: that of `cut`, or over."""
        state = cut or self._state(batch_pass, over=True)
        self.cut_short = cut is not None
        self._open = None
        batch_pass.close()
        self._views[len(self._done)] = ref(batch_pass.loader_view())
        self._done.append(state)
        if state["over"]:
            self._samples += state["samples"]
        return state

    def end_epoch(self) -> None:
        """Keep of each pass what the one of the same place in the next epoch needs."""
        self._last |= dict(enumerate(self._done))
        self._last_views, self._views = self._last_views | self._views, {}
        self._done, self._resumed = [], []

    def end_own_epoch(self, last: dict[str, Any]) -> bool:
        """Without `epochs()`, a pass in which steps were counted is an epoch: whether ``last`` was one."""
        view = self._views.pop(len(self._done) - 1)
        self._done, self._resumed, self._views = [], [], {}
        if last["trained"]:
            self._last[0], self._last_views[0] = last, view
        return bool(last["trained"])
