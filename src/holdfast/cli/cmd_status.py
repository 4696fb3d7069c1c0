"""``holdfast status``: who trains what now, and how it goes."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from holdfast.cli import output, text
from holdfast.cli.options import JsonOption, MaybeRuns, RepositoryOption, find_runs, open_repository
from holdfast.cli.table import print_table
from holdfast.cli.told import RESTART_CAUSE, live_holders, run_json

if TYPE_CHECKING:
    from holdfast.repository.records import EndRecord
    from holdfast.repository.run import Run

EXAMPLES = ("holdfast status", "holdfast status digits", "watch -n 10 holdfast status")


def command(
    run: MaybeRuns = None,
    repository: RepositoryOption = None,
    json: JsonOption = False,
) -> None:
    """Show live runs, or RUN whether live or not: process, attempt, last checkpoint, memory, last failure.

    Memory is what the process that saves in the background holds: for which step, and how much.
    """
    opened = open_repository(repository)
    told = [_told(found) for found in find_runs(opened, run)]
    if run is None:
        told = [t for t in told if t["state"] == "live" or t["memory"] is not None]
    if json:
        output.print_json({"repository": opened.storage.location, "runs": told})
    elif told:
        _print(told)
    else:
        output.say("No run is live. 'holdfast ls' lists all runs.")


def _told(run: Run) -> dict[str, Any]:
    from holdfast.repository.overview import overview

    seen = overview(run)
    last = _last_failure(run)
    failure = {"cause": last.cause, "step": last.step, "ended_seconds": last.ended_seconds} if last else None
    return {**run_json(seen, live_holders(run)), "memory": _memory(run), "last_failure": failure}


def _memory(run: Run) -> dict[str, Any] | None:
    """What an agent on this machine holds of it."""
    from holdfast.training.opening import snapshots_of

    held = snapshots_of(run)
    if held is None:
        return None
    return {"step": held.step, "durable": held.checkpoint is not None, "size_bytes": held.memory_bytes}


def _last_failure(run: Run) -> EndRecord | None:
    """How the newest attempt ended that said so and was not done."""
    in_order = (end for _, end in sorted(run.ends().items(), key=lambda pair: pair[0]))
    ends = [end for end in in_order if not end.done and not end.cause.startswith(RESTART_CAUSE)]
    return ends[-1] if ends else None


def _print(told: list[dict[str, Any]]) -> None:
    rows = []
    for one in told:
        latest, failure = one["latest"], one["last_failure"]
        saved = latest["saved_seconds"] if latest is not None else None
        rows.append(
            (
                one["run"],
                one["state"],
                ", ".join(f"{h['pid']} on {h['host']}" for h in one["holders"]),
                (one["attempt"] or "-").partition("-")[0].lstrip("0") or "-",
                str(latest["step"]) if latest is not None else "-",
                text.age(saved) if saved is not None else "-",
                _memory_text(one["memory"]),
                f"{failure['cause']} at step {failure['step']}" if failure is not None else "",
            )
        )
    columns = ("run", "state", "process", "attempt>", "step>", "saved>", "memory", "last failure")
    print_table(columns, rows, folding=("run", "process", "last failure"))


def _memory_text(memory: dict[str, Any] | None) -> str:
    if memory is None:
        return "-"
    held = text.size(memory["size_bytes"])
    return f"{held}, step {memory['step']}" if memory["step"] is not None else held
