"""``holdfast status``: who trains what now, and how it goes."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Any

import typer

from holdfast.cli import output, saving, text
from holdfast.cli.live import refuse_together, show_live
from holdfast.cli.options import JsonOption, MaybeRuns, RepositoryOption, find_runs, open_repository
from holdfast.cli.table import print_table
from holdfast.cli.told import RESTART_CAUSE, live_holders, run_json

if TYPE_CHECKING:
    from holdfast.node.process import ProcessIdentity
    from holdfast.repository.records import EndRecord
    from holdfast.repository.repository import Repository
    from holdfast.repository.run import Run

EXAMPLES = (
    "holdfast status",
    "holdfast status digits",
    "holdfast status --watch --interval 5",
)
WatchOption = Annotated[bool, typer.Option("--watch", help="Keep showing it, until Ctrl-C.")]
IntervalOption = Annotated[
    float,
    typer.Option("--interval", metavar="SECONDS", min=0.1, help="Between two looks of --watch."),
]


def command(
    run: MaybeRuns = None,
    repository: RepositoryOption = None,
    watch: WatchOption = False,
    interval: IntervalOption = 2.0,
    json: JsonOption = False,
) -> None:
    """Show live runs, or RUN whether live or not: process, attempt, last checkpoint, memory, last failure.

    Memory is what the process that saves in the background holds: for which step, and how much. The
    live view has the step, the loss, and the longest save of trainings below 'holdfast run'. A run
    that chooses itself when to save (save="auto") is followed by a line that says what, and why.
    """
    opened = open_repository(repository)
    if watch:
        refuse_together(json)
        show_live(lambda: _all_told(opened, run), interval)
        return
    told = _all_told(opened, run)
    if json:
        output.print_json({"repository": opened.storage.location, "runs": told})
    elif told:
        _print(told)
    else:
        output.say("No run is live. 'holdfast ls' lists all runs.")


def _all_told(repository: Repository, wanted: str | None) -> list[dict[str, Any]]:
    told = [_told(found) for found in find_runs(repository, wanted)]
    if wanted is not None:
        return told
    return [t for t in told if t["state"] == "live" or t["memory"] is not None]


def _told(run: Run) -> dict[str, Any]:
    from holdfast.repository.overview import overview

    seen, holders = overview(run), live_holders(run)
    last = _last_failure(run)
    failure = {"cause": last.cause, "step": last.step, "ended_seconds": last.ended_seconds} if last else None
    return {
        **run_json(seen, holders),
        "pulse": _pulse(holders),
        "next_step": _next_step(run),
        "memory": _memory(run),
        "saving": saving.told(run),
        "last_failure": failure,
    }


def _pulse(holders: list[ProcessIdentity]) -> dict[str, Any] | None:
    """What a trainer on this machine, below a supervisor, is at."""
    from holdfast.node.pulse import Phase, glance, place_of

    for holder in holders:
        place = place_of(holder.pid) if holder.visible() else None
        seen = glance(place) if place else None
        if seen is not None and seen.pid == holder.pid:
            longest_save = seen.longest_seconds[Phase.SAVING]
            phase = seen.phase.name.lower()
            return {
                "phase": phase,
                "step": seen.step,
                "loss": seen.loss,
                "longest_save_seconds": longest_save,
            }
    return None


def _next_step(run: Run) -> int | None:
    """Where the next checkpoint is due, if they go on coming as the two newest did."""
    from itertools import islice

    from holdfast.errors import DamagedError

    try:
        newest = [checkpoint.step for checkpoint in islice(run.recovery_points(), 2)]
    except DamagedError:
        return None
    return 2 * newest[0] - newest[1] if len(newest) == 2 else None


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
    for one in told:
        if one["saving"] is not None:
            output.say(f"{one['run']} {one['saving']['why']}.")


def _memory_text(memory: dict[str, Any] | None) -> str:
    if memory is None:
        return "-"
    held = text.size(memory["size_bytes"])
    return f"{held}, step {memory['step']}" if memory["step"] is not None else held
