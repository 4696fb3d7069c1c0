"""Retention of a live run: the keep rule decided on what is there, then removal."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from holdfast.domain.events import Event, Warned
from holdfast.domain.keep_rules import KeepRule, Kept, decide
from holdfast.domain.lineage import chain, head_attempt
from holdfast.domain.manifest import Summary
from holdfast.domain.names import AttemptId, CheckpointId
from holdfast.domain.tree import Component
from holdfast.errors import DamagedError, NotFoundError, StorageError
from holdfast.repository.commit import Committed
from holdfast.repository.retention import remove
from holdfast.repository.run import Run
from holdfast.repository.thinning import make_thin

MODEL_KINDS = frozenset({"torch.module", "paddle.layer"})
PRUNE_WAIT_SECONDS = 2.0


class Retention:
    """Applies a keep rule after each commit, as long as this attempt is the highest."""

    def __init__(self, run: Run, attempt: AttemptId, rule: KeepRule, emit: Callable[[Event], None]) -> None:
        self._run = run
        self._attempt = attempt
        self._rule = rule
        self._emit = emit
        self._summaries: dict[CheckpointId, Summary] = {}
        self._swept = False

    def after(self, committed: Committed) -> None:
        """Thin and remove what the rule no longer keeps; a fault here costs nothing but disk."""
        self._summaries[committed.id] = committed.summary
        try:
            self._apply()
        except (StorageError, DamagedError, NotFoundError) as error:
            self._emit(Warned(self._run.name, f"old checkpoints were not removed: {error}"))

    def _apply(self) -> None:
        if self._rule.last is None and self._swept:
            return
        kept = {str(c): c for c in self._checkpoints()}
        decision = decide(self._rule, [self._kept(c) for c in kept.values()])
        thinned = [kept[name] for name in decision.thin if make_thin(self._run, kept[name], is_model)]
        drop = [kept[name] for name in decision.drop] + thinned
        if drop or not self._swept:
            result = remove(
                self._run,
                drop,
                may_delete=self._may_delete,
                wait_seconds=PRUNE_WAIT_SECONDS,
                sweep=not self._swept,
            )
            self._swept = self._swept or not result.busy

    def _checkpoints(self) -> list[CheckpointId]:
        """Dead branches first, then the line that leads here, each oldest first."""
        run = self._run
        rejected = run.rejected() | run.repository.doubtful
        present = [c for c in run.checkpoints() if str(c) not in rejected]
        line = list(chain(run.attempts(), present))
        return [*(c for c in present if c not in set(line)), *reversed(line)]

    def _kept(self, checkpoint: CheckpointId) -> Kept:
        if checkpoint not in self._summaries:
            self._summaries[checkpoint] = self._run.summary(checkpoint)
        summary = self._summaries[checkpoint]
        return Kept(
            id=str(checkpoint),
            step=checkpoint.step,
            epoch=summary.progress.epoch,
            saved_seconds=summary.saved_seconds,
            kind="full" if checkpoint.kind == "full" else "thin",
            metrics=summary.metrics,
            tags=checkpoint in self._run.tags().values(),
            healthy=True,
            superseded=self._superseded(checkpoint),
            protected=self._is_base(checkpoint),
        )

    def _superseded(self, checkpoint: CheckpointId) -> bool:
        same = (c for c in self._summaries if (c.attempt, c.step) == (checkpoint.attempt, checkpoint.step))
        return any(c.sequence > checkpoint.sequence and c.kind == checkpoint.kind for c in same)

    def _is_base(self, checkpoint: CheckpointId) -> bool:
        """The base of the head, for as long as the head has no checkpoint of its own."""
        head = head_attempt(self._run.attempts())
        own = any(c.attempt == self._attempt and c.kind == "full" for c in self._summaries)
        return head is not None and head.base == checkpoint and not own

    def _may_delete(self, checkpoint: CheckpointId) -> bool:
        return self._run.is_highest(self._attempt) and checkpoint not in self._run.tags().values()


def is_model(value: Any) -> bool:
    """Whether a top-level entry of the state is a model: what a thin checkpoint keeps."""
    return isinstance(value, Component) and value.kind in MODEL_KINDS
