"""Checkpoints and runs as people and programs are told of them: one shape everywhere."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from holdfast.cli import text

if TYPE_CHECKING:
    from holdfast.node.process import ProcessIdentity
    from holdfast.repository.overview import Entry, RunOverview
    from holdfast.repository.run import Run

RESTART_CAUSE = "restart "
"""Begins the end of an attempt that 'holdfast restart' opened."""


def entry_json(entry: Entry) -> dict[str, Any]:
    """One checkpoint for programs; what only its damaged summary knew is null."""
    s, identity = entry.summary, entry.id
    return {
        "address": f"{entry.run}@{identity.step}",
        "run": entry.run,
        "id": str(identity),
        "step": identity.step,
        "epoch": s.progress.epoch if s else None,
        "batch": s.progress.batch if s else None,
        "samples": s.progress.samples if s else None,
        "kind": identity.kind,
        "attempt": str(identity.attempt),
        "parent": s.parent if s else None,
        "saved_seconds": s.saved_seconds if s else None,
        "reason": s.reason if s else None,
        "metrics": dict(s.metrics) if s else {},
        "size_bytes": s.size_bytes if s else None,
        "tensors": s.tensors if s else None,
        "done": s.done if s else None,
        "tags": list(entry.tags),
        "latest": entry.latest,
        "on_line": entry.on_line,
        "rejected": entry.rejected,
        "damage": entry.damage,
    }


def notes(entry: Entry) -> str:
    """What is special about a checkpoint, in a few words."""
    found = ["latest"] if entry.latest else []
    found += entry.tags
    found += ["thin"] if entry.id.kind == "thin" else []
    found += ["damaged"] if entry.damage else []
    found += ["rejected"] if entry.rejected else []
    found += [] if entry.on_line else ["dead branch"]
    return ", ".join(found)


def live_holders(run: Run) -> list[ProcessIdentity]:
    """Processes that train this run now, as far as can be known."""
    from holdfast.node.lease import holders

    return holders(run.storage, run.layout.leases)


def state_of(overview: RunOverview, holders: list[ProcessIdentity]) -> str:
    """In a word or two, how a run is doing."""
    from holdfast.repository.forking import FORK_CAUSE

    if holders:
        return "live"
    if overview.damage is not None:
        return "damaged"
    if overview.head is None:
        return "not started"
    if overview.end is None:
        return "killed"
    if overview.end.cause.startswith(RESTART_CAUSE):
        return "to restart"
    if overview.end.cause.startswith(FORK_CAUSE):
        return "forked"
    return "finished" if overview.end.done else "ended"


def run_json(overview: RunOverview, holders: list[ProcessIdentity]) -> dict[str, Any]:
    """One run for programs."""
    end = overview.end
    return {
        "run": overview.run,
        "state": state_of(overview, holders),
        "checkpoints": overview.checkpoints,
        "attempts": overview.attempts,
        "attempt": str(overview.head) if overview.head is not None else None,
        "latest": entry_json(overview.latest) if overview.latest is not None else None,
        "ended": {"cause": end.cause, "step": end.step, "ended_seconds": end.ended_seconds} if end else None,
        "holders": [{"host": h.host, "pid": h.pid} for h in holders],
        "damage": overview.damage,
    }


def metrics_of(entry: Entry | None) -> str:
    return text.metrics(entry.summary.metrics) if entry is not None and entry.summary is not None else ""
