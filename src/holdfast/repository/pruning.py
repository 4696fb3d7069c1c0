"""Applying a keep rule to a run that is not being trained."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import msgspec

from holdfast.domain.keep_rules import Decision, KeepRule, Kept, best, decide
from holdfast.domain.names import AttemptId, CheckpointId
from holdfast.repository import retention
from holdfast.repository.overview import Entry, entries
from holdfast.repository.run import Run
from holdfast.repository.thinning import can_be_thin, make_thin


class Plan(msgspec.Struct, frozen=True):
    """What a keep rule means for a run.

    Attributes
    ----------
    keep, thin, drop : list[CheckpointId]
        Dead branches first, else in order of commits.
    set_aside : list[CheckpointId]
        Rejected or unreadable: no rule counts or removes them.
    rule : KeepRule
        By which it was decided.
    """

    keep: list[CheckpointId]
    thin: list[CheckpointId]
    drop: list[CheckpointId]
    set_aside: list[CheckpointId]
    rule: KeepRule


def plan(run: Run, rule: KeepRule, *, is_model: Callable[[Any], bool]) -> Plan:
    """Decide, without touching anything; what holds no model stays full.

    Parameters
    ----------
    is_model : callable
        Which top-level entries of a state a thin checkpoint keeps.
    """
    return _decided(run, entries(run), rule, lambda checkpoint: can_be_thin(run, checkpoint, is_model))


def kept_elsewhere(run: Run, other: Run | None, rule: KeepRule) -> set[tuple[AttemptId, int, int, str]]:
    """Those of a run that a rule would keep, whole or thin, beside what another repository has of it.

    Without those of which the other has a thin copy, where the rule wants no more.
    """
    there = entries(other) if other is not None else []
    known = {e.id.identity for e in there}
    here = [e for e in entries(run) if e.id.identity not in known]
    decided = _decided(run, [*there, *here], rule, lambda checkpoint: True)
    thinned = {c.identity[:-1] for c in decided.keep if c.kind == "thin"}
    to_thin = {c.identity for c in decided.thin if c.identity[:-1] not in thinned}
    return {c.identity for c in decided.keep} | to_thin


def best_of(run: Run, rule: KeepRule) -> set[str]:
    """Full ids of those that are its best by a rule."""
    found = _in_order(entries(run))
    return {kept.id for kept in best(_counted(run, found), rule.monitor, rule.mode, rule.best)}


def _in_order(found: list[Entry]) -> list[Entry]:
    return sorted(found, key=lambda e: (e.on_line, e.id.order))  # dead branches count as older


def _counted(run: Run, found: list[Entry]) -> list[Kept]:
    """What a rule decides on: what can be read and is not rejected."""
    usable = [e for e in found if e.summary is not None and not e.rejected]
    base = _needed_base(run, usable)
    newest = {(e.id.step, e.id.attempt): e.id.sequence for e in usable}
    return [_kept(e, newest[e.id.step, e.id.attempt] > e.id.sequence, base) for e in usable]


def _decided(
    run: Run, found: list[Entry], rule: KeepRule, can_be_thin: Callable[[CheckpointId], bool]
) -> Plan:
    everything = _in_order(found)
    decision: Decision = decide(rule, _counted(run, everything))
    by_id = {str(e.id): e.id for e in everything}
    counted = {*decision.keep, *decision.thin, *decision.drop}
    thin = [i for i in decision.thin if can_be_thin(by_id[i])]
    keep = {*decision.keep, *decision.thin}.difference(thin)
    return Plan(
        keep=[c for i, c in by_id.items() if i in keep],
        thin=[by_id[i] for i in thin],
        drop=[by_id[i] for i in decision.drop],
        set_aside=[c for i, c in by_id.items() if i not in counted],
        rule=rule,
    )


def _needed_base(run: Run, usable: list[Entry]) -> CheckpointId | None:
    """The base of the head, for as long as the head has no checkpoint of its own."""
    head = run.head()
    if head is None or any(e.id.attempt == head.id and e.id.kind == "full" for e in usable):
        return None
    return head.base


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
        healthy=True,
        superseded=has_newer,
        protected=entry.latest or identity == base,
        on_line=entry.on_line,
    )


def apply(
    run: Run, decided: Plan, *, is_model: Callable[[Any], bool], wait_seconds: float = 60.0
) -> retention.Pruned:
    """Thin and remove as planned; what was tagged since then stays, and what is needed by now.

    The caller sees to it that nobody launches or restarts the run meanwhile.

    Parameters
    ----------
    is_model : callable
        Which top-level entries of a state a thin checkpoint keeps.
    """
    now = plan(run, decided.rule, is_model=is_model)  # somebody may have thought it over for long
    thin = [checkpoint for checkpoint in decided.thin if checkpoint in now.thin]
    thinned = [checkpoint for checkpoint in thin if make_thin(run, checkpoint, is_model)]
    return retention.remove(
        run,
        [*(checkpoint for checkpoint in decided.drop if checkpoint in now.drop), *thinned],
        may_delete=lambda checkpoint: checkpoint not in run.tags(strict=True).values(),
        resting_on=now.keep,
        wait_seconds=wait_seconds,
    )
