"""Retention of a live run: the keep rule decided on what is there, then removal."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import suppress
from typing import Any

from holdfast.domain.keep_rules import KeepRule, Kept, decide
from holdfast.domain.lineage import chain, head_attempt
from holdfast.domain.manifest import Summary
from holdfast.domain.names import AttemptId, CheckpointId
from holdfast.domain.tree import Component
from holdfast.errors import DamagedError, HoldfastError, NotFoundError
from holdfast.repository.commit import Committed
from holdfast.repository.retention import remove, sweep
from holdfast.repository.run import Run
from holdfast.repository.summaries import Summaries
from holdfast.repository.thinning import make_thin

MODEL_KINDS = frozenset({"torch.module", "paddle.layer"})
PRUNE_WAIT_SECONDS = 2.0


class Retention:
    """Applies a keep rule after each commit, as long as this attempt is the highest."""

    def __init__(self, run: Run, attempt: AttemptId, rule: KeepRule, warn: Callable[[str], None]) -> None:
        self._run = run
        self._attempt = attempt
        self._rule = rule
        self._warn = warn
        self._summaries: dict[CheckpointId, Summary | None] = {}
        self._swept = False
        self._failures = 0

    def before(self) -> None:
        """Remove what killed saves left behind, before the first save of this attempt needs the room.

        That includes checkpoints that one of them had made superfluous when it was killed.
        """
        if not self._swept:
            with suppress(HoldfastError):  # tried again at the next save, which tells of a fault itself
                self._apply()
                self._swept = not sweep(self._run.repository, wait_seconds=PRUNE_WAIT_SECONDS).busy

    def after(self, committed: Committed) -> None:
        """Thin and remove what the rule no longer keeps; a fault here costs nothing but disk."""
        self._summaries[committed.id] = committed.summary
        try:
            self._apply()
            self._failures = 0
        except HoldfastError as error:
            self._failed(f"old checkpoints were not removed: {error}")

    def _failed(self, text: str) -> None:
        self._failures += 1
        if self._failures & (self._failures - 1) == 0:  # once, then rarely
            self._warn(text)

    def _apply(self) -> None:
        if self._rule.last is None:
            return
        present, on_line = self._checkpoints()
        decision = decide(self._rule, self._kept(present, on_line))
        by_name = {str(c): c for c in present}
        thinned = [by_name[name] for name in decision.thin if self._made_thin(by_name[name])]
        drop = [by_name[name] for name in decision.drop] + thinned
        if drop:
            remove(
                self._run,
                drop,
                may_delete=self._may_delete,
                resting_on=[by_name[name] for name in decision.keep],
                wait_seconds=PRUNE_WAIT_SECONDS,
            )

    def _made_thin(self, checkpoint: CheckpointId) -> bool:
        try:
            return make_thin(self._run, checkpoint, is_model)
        except HoldfastError as error:  # that one stays as it is; the others must not wait for it
            self._failed(f"{self._run.name}@{checkpoint.step} could not be thinned: {error}")
            return False

    def _checkpoints(self) -> tuple[list[CheckpointId], set[CheckpointId]]:
        """Dead branches first, then the line that leads here, each oldest first; and those on the line."""
        run = self._run
        rejected = run.rejected() | run.repository.doubtful
        present = [c for c in run.checkpoints() if str(c) not in rejected]
        on_line = set(chain(run.attempts(), present))
        return sorted(present, key=lambda c: c in on_line), on_line  # each in order of commits, as they came

    def _kept(self, present: list[CheckpointId], on_line: set[CheckpointId]) -> list[Kept]:
        """What the rule decides on; those that cannot be read neither count nor go."""
        self._summaries = {c: self._summary(c) for c in present}
        tagged, base = set(self._run.tags().values()), self._needed_base(present)
        newest: dict[tuple[AttemptId, int, str], int] = {}
        for c in present:
            place = (c.attempt, c.step, c.kind)
            newest[place] = max(newest.get(place, 0), c.sequence)
        return [
            Kept(
                id=str(c),
                step=c.step,
                epoch=summary.progress.epoch,
                saved_seconds=summary.saved_seconds,
                kind="full" if c.kind == "full" else "thin",
                metrics=summary.metrics,
                tags=c in tagged,
                healthy=True,
                superseded=newest[c.attempt, c.step, c.kind] > c.sequence,
                protected=c == base,
                on_line=c in on_line,
            )
            for c in present
            if (summary := self._summaries[c]) is not None
        ]

    def _summary(self, checkpoint: CheckpointId) -> Summary | None:
        if checkpoint not in self._summaries:
            try:
                return self._run.summary(checkpoint)
            except (DamagedError, NotFoundError):
                return None
        return self._summaries[checkpoint]

    def _needed_base(self, present: list[CheckpointId]) -> CheckpointId | None:
        """The base of the head, for as long as the head has no checkpoint of its own."""
        if any(c.attempt == self._attempt and c.kind == "full" for c in present):
            return None
        head = head_attempt(self._run.attempts())
        return head.base if head is not None else None

    def _may_delete(self, checkpoint: CheckpointId) -> bool:
        return self._run.is_highest(self._attempt) and checkpoint not in self._run.tags().values()


def monitored_so_far(run: Run, rule: KeepRule) -> list[float]:
    """Values of the monitored metric on the line that leads to the head, as far as they can be read."""
    values = []
    line = list(chain(run.attempts(), run.checkpoints())) if rule.best else []
    summaries = Summaries(run, line)
    for checkpoint in line:
        with suppress(DamagedError, NotFoundError):
            metrics = summaries.of(checkpoint).metrics
            values += [metrics[rule.monitor]] if rule.monitor in metrics else []
    return values


def is_model(value: Any) -> bool:
    """Whether a top-level entry of the state is a model: what a thin checkpoint keeps."""
    return isinstance(value, Component) and value.kind in MODEL_KINDS
