"""Applying a keep rule to a run that is not being trained."""

from __future__ import annotations

import msgspec

from holdfast.domain.keep_rules import Decision, KeepRule, Kept, decide
from holdfast.domain.names import CheckpointId
from holdfast.repository import retention
from holdfast.repository.overview import Entry, entries
from holdfast.repository.run import Run


class Plan(msgspec.Struct, frozen=True):
    """What a keep rule means for a run.

    Attributes
    ----------
    keep, thin, drop : list[CheckpointId]
        In order of commits; ``thin`` ones stay full until the run is trained again.
    set_aside : list[CheckpointId]
        Rejected or unreadable: no rule counts or removes them.
    """

    keep: list[CheckpointId]
    thin: list[CheckpointId]
    drop: list[CheckpointId]
    set_aside: list[CheckpointId]


def plan(run: Run, rule: KeepRule) -> Plan:
    """Decide, without touching anything."""
    everything = entries(run)
    usable = [e for e in everything if e.summary is not None and not e.rejected]
    head = run.head()
    base = head.base if head is not None else None
    newest = {(e.id.step, e.id.attempt): e.id.sequence for e in usable}
    kept = [_kept(e, newest[e.id.step, e.id.attempt] > e.id.sequence, base) for e in usable]
    decision: Decision = decide(rule, kept)
    by_id = {str(e.id): e.id for e in everything}
    counted = {*decision.keep, *decision.thin, *decision.drop}
    return Plan(
        keep=[by_id[i] for i in decision.keep],
        thin=[by_id[i] for i in decision.thin],
        drop=[by_id[i] for i in decision.drop],
        set_aside=[c for i, c in by_id.items() if i not in counted],
    )


def _kept(entry: Entry, has_newer: bool, base: CheckpointId | None) -> Kept:
    summary, identity = entry.summary, entry.id
    assert summary is not None
    return Kept(
        id=str(identity),
        step=identity.step,
        epoch=summary.progress.epoch,
        saved_seconds=summary.saved_seconds,
        kind="thin" if identity.kind == "thin" else "full",
        metrics=summary.metrics,
        tags=bool(entry.tags),
        superseded=has_newer or not entry.on_line,
        protected=entry.latest or identity == base,
    )


def apply(run: Run, decided: Plan, *, wait_seconds: float = 60.0) -> retention.Pruned:
    """Remove what the plan drops; a checkpoint tagged since then stays."""
    return retention.remove(
        run,
        decided.drop,
        may_delete=lambda checkpoint: checkpoint not in run.tags(strict=True).values(),
        wait_seconds=wait_seconds,
    )
