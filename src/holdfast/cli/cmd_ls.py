"""``holdfast ls``: runs, or the checkpoints of a run, or the best of many."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Any

import typer

from holdfast.cli import output, text
from holdfast.cli.graph import show_graph
from holdfast.cli.options import (
    JsonOption,
    MaybeRuns,
    RepositoryOption,
    find_run,
    find_runs,
    is_pattern,
    open_repository,
)
from holdfast.cli.table import print_table
from holdfast.cli.told import (
    RESTART_CAUSE,
    entry_json,
    live_holders,
    metrics_of,
    notes,
    run_json,
    state_of,
)

if TYPE_CHECKING:
    from holdfast.repository.overview import Entry, RunOverview
    from holdfast.repository.repository import Repository
    from holdfast.repository.run import Run

EXAMPLES = (
    "holdfast ls",
    "holdfast ls digits",
    "holdfast ls 'sweep/*' --sort val_loss --limit 5",
    "holdfast ls --sort accuracy --desc --json",
    "holdfast ls digits --graph",
    "holdfast ls --graph",
)


def command(
    run: MaybeRuns = None,
    sort: Annotated[
        str | None,
        typer.Option(
            "--sort",
            metavar="METRIC",
            help="List checkpoints of all these runs, by this metric, or by step, saved or size.",
            show_default=False,
        ),
    ] = None,
    desc: Annotated[bool, typer.Option("--desc", help="Largest first.")] = False,
    limit: Annotated[
        int | None, typer.Option("--limit", "-n", min=1, help="At most so many.", show_default=False)
    ] = None,
    graph: Annotated[
        bool, typer.Option("--graph", help="Draw the tree of checkpoints, across all these runs.")
    ] = False,
    repository: RepositoryOption = None,
    json: JsonOption = False,
) -> None:
    """List runs; or the checkpoints of RUN; or, with --sort, checkpoints across runs.

    With --graph each checkpoint is drawn above the one it descends from: * leads to what the run
    would resume from, o is on a dead branch, x is rejected or damaged. Forks of runs that are not
    drawn are named.
    """
    opened = open_repository(repository)
    if graph:
        _refuse_order(sort, desc=desc, limit=limit)
        show_graph(opened, find_runs(opened, run), json=json)
    elif sort is not None:
        _list_sorted(find_runs(opened, run), sort, desc=desc, limit=limit, json=json)
    elif run is None or is_pattern(run):
        _list_runs(opened, find_runs(opened, run)[:limit], json=json)
    else:
        _list_checkpoints(find_run(opened, run), desc=desc, limit=limit, json=json)


def _refuse_order(sort: str | None, *, desc: bool, limit: int | None) -> None:
    from holdfast.errors import UsageError

    if sort is not None or desc or limit is not None:
        raise UsageError("A graph has an order of its own.", do="Leave out --sort, --desc and --limit.")


def _list_runs(repository: Repository, runs: list[Run], *, json: bool) -> None:
    from holdfast.repository.overview import overview

    found = [(overview(run), live_holders(run)) for run in runs]
    if json:
        told = [run_json(seen, holders) for seen, holders in found]
        output.print_json({"repository": repository.storage.location, "runs": told})
        return
    if not found:
        output.say(f"The repository {repository.storage.location} has no runs yet.")
        return
    rows = []
    for seen, holders in found:
        latest = seen.latest
        summary = latest.summary if latest is not None else None
        rows.append(
            (
                seen.run,
                str(latest.id.step) if latest is not None else "-",
                str(seen.checkpoints),
                text.size(summary.size_bytes) if summary is not None else "-",
                text.age(summary.saved_seconds) if summary is not None else "-",
                state_of(seen, holders),
                _remark(seen),
            )
        )
    columns = ("run", "latest>", "checkpoints>", "size>", "saved>", "state", "metrics")
    print_table(columns, rows, folding=("run", "metrics"))


def _remark(seen: RunOverview) -> str:
    """Metrics of what the run would resume from, or what is wrong with it."""
    if seen.latest is None:
        restarts = seen.end is not None and seen.end.cause.startswith(RESTART_CAUSE)
        return "nothing to resume from" if seen.checkpoints and not restarts else ""
    return "the latest is damaged" if seen.latest.damage is not None else metrics_of(seen.latest)


def _list_checkpoints(run: Run, *, desc: bool, limit: int | None, json: bool) -> None:
    from holdfast.repository.overview import entries

    found = entries(run)
    if desc:
        found.reverse()
    if limit is not None:
        found = found[:limit] if desc else found[-limit:]
    _print_entries(found, {"run": run.name}, json=json)
    if not found and not json:
        output.say(f"The run {run.name} has no checkpoints.")


def _list_sorted(runs: list[Run], sort: str, *, desc: bool, limit: int | None, json: bool) -> None:
    from holdfast.errors import NotFoundError
    from holdfast.repository.overview import entries

    everything = [e for run in runs for e in entries(run) if e.summary is not None]
    found = [(v, e) for e in everything if (v := _value(e, sort)) is not None]
    if everything and not found:
        known = sorted({m for e in everything if e.summary for m in e.summary.metrics})
        raise NotFoundError(
            f"No checkpoint has a metric {sort!r}; there are: {', '.join(known) or 'none'}.",
            do="Sort by one of them, or by step, saved or size.",
        )
    found.sort(key=lambda pair: pair[0], reverse=desc)
    _print_entries([e for _, e in found][:limit], {"sort": sort, "desc": desc}, json=json, across=True)


def _value(entry: Entry, sort: str) -> float | None:
    """What to sort by; None where the checkpoint has no such number (NaN sorts nowhere)."""
    summary = entry.summary
    if summary is None:
        return None
    computed = {"step": entry.id.step, "saved": summary.saved_seconds, "size": summary.size_bytes}
    value = summary.metrics.get(sort, computed.get(sort))
    return value if value is not None and value == value else None  # noqa: PLR0124  # NaN


def _print_entries(found: list[Entry], head: dict[str, Any], *, json: bool, across: bool = False) -> None:
    if json:
        output.print_json({**head, "checkpoints": [entry_json(e) for e in found]})
        return
    rows = []
    for entry in found:
        summary = entry.summary
        row = (
            str(entry.id.step),
            str(summary.progress.epoch) if summary is not None else "?",
            text.size(summary.size_bytes if summary is not None else None),
            text.age(summary.saved_seconds) if summary is not None else "?",
            metrics_of(entry),
            notes(entry),
            summary.reason if summary is not None else "",
        )
        rows.append((entry.run, *row) if across else row)
    columns = ("step>", "epoch>", "size>", "saved>", "metrics", "notes", "reason")
    if rows:
        folding = ("run", "metrics", "notes", "reason")
        print_table(("run", *columns) if across else columns, rows, folding=folding)
