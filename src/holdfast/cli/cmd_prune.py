"""``holdfast prune``: apply a keep rule, and remove what killed saves left behind."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Any

import typer

from holdfast.cli import output, text
from holdfast.cli.options import (
    JsonOption,
    MaybeRuns,
    RepositoryOption,
    YesOption,
    find_runs,
    open_repository,
)
from holdfast.cli.table import print_table
from holdfast.cli.told import live_holders
from holdfast.training.claiming import claimed

if TYPE_CHECKING:
    from holdfast.domain.keep_rules import KeepRule
    from holdfast.repository.pruning import Plan
    from holdfast.repository.repository import Repository
    from holdfast.repository.run import Run

EXAMPLES = (
    "holdfast prune --dry-run",
    "holdfast prune digits --keep 'last 3, best 2 val_loss min' --dry-run",
    "holdfast prune 'sweep/*' --keep 'last 1' --yes",
)
WAIT_SECONDS = 60.0


def command(
    run: MaybeRuns = None,
    keep: Annotated[
        str | None,
        typer.Option(
            "--keep",
            metavar="RULE",
            help="What to keep of each run, as training takes it: 'last 3, every 1000 steps'.",
            show_default=False,
        ),
    ] = None,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Only say what would go.")] = False,
    repository: RepositoryOption = None,
    yes: YesOption = False,
    json: JsonOption = False,
) -> None:
    """Remove what no checkpoint needs; with --keep first what the rule lets go.

    Tagged checkpoints and what a run resumes from always stay. A live run keeps its own rule. Removals that
    had to wait, as in object stores, are finished once their grace time is over.
    """
    from holdfast.domain.keep_rules import parse
    from holdfast.errors import UsageError

    opened = open_repository(repository)
    rule = parse(keep) if keep is not None else None
    if run is not None and rule is None:
        raise UsageError("Pruning one run needs a rule.", do="Say for example --keep 'last 3'.")
    runs = find_runs(opened, run)
    live = [r.name for r in runs if rule is not None and live_holders(r)]
    plans = _plans([r for r in runs if r.name not in live], rule)
    dropped = sum(len(plan.drop) + len(plan.thin) for _, plan in plans)
    if not dry_run and dropped:
        _print_plans(plans, live, json=json)
        if not output.confirm(f"Remove or thin {text.several(dropped, 'checkpoint')}?", yes=yes):
            output.note("Nothing was removed.")
            return
    result = _would(opened, plans) if dry_run else _apply(opened, plans)
    _report(result, plans, live, dry_run=dry_run, json=json)


def _plans(runs: list[Run], rule: KeepRule | None) -> list[tuple[Run, Plan]]:
    from holdfast.repository.pruning import plan
    from holdfast.repository.retaining import is_model

    return [(run, plan(run, rule, is_model=is_model)) for run in runs] if rule is not None else []


def _would(repository: Repository, plans: list[tuple[Run, Plan]]) -> dict[str, Any]:
    from holdfast.repository.space import Survey

    survey = Survey(repository)
    unread = [f"{run}@{c.step}" for (run, c), packs in survey.needs.items() if packs is None]
    going = {(run.name, c) for run, plan in plans for c in plan.drop}
    left = {p for key, packs in survey.needs.items() if key not in going for p in packs or ()}
    packs = survey.pack_bytes.keys() - left if not unread else set()
    freed_bytes = sum(survey.pack_bytes[p] for p in packs)
    return _result(len(going), sum(len(plan.thin) for _, plan in plans), len(packs), freed_bytes, 0)


def _apply(repository: Repository, plans: list[tuple[Run, Plan]]) -> dict[str, Any]:
    from holdfast.errors import BusyError
    from holdfast.repository import pruning, retention
    from holdfast.repository.retaining import is_model

    removed, thinned = [], 0
    for run, plan in plans:
        with claimed(run):
            pruned = pruning.apply(run, plan, is_model=is_model, wait_seconds=WAIT_SECONDS)
        thinned += len(set(plan.thin).intersection(pruned.checkpoints))
        removed.append(pruned)
    removed.append(retention.finish(repository, wait_seconds=WAIT_SECONDS))
    removed.append(retention.sweep(repository, wait_seconds=WAIT_SECONDS))
    if any(pruned.busy for pruned in removed):
        raise BusyError("Another process was saving or reading all the time.", do="Try again.")
    return _result(
        sum(len(p.checkpoints) for p in removed) - thinned,
        thinned,
        sum(len(p.packs) for p in removed),
        sum(p.freed_bytes for p in removed),
        sum(p.waiting for p in removed[-2:]),  # these look at everything
    )


def _result(checkpoints: int, thinned: int, packs: int, freed_bytes: int, waiting: int) -> dict[str, Any]:
    return {
        "checkpoints": checkpoints,
        "thinned": thinned,
        "packs": packs,
        "freed_bytes": freed_bytes,
        "waiting": waiting,
    }


def _report(
    result: dict[str, Any], plans: list[tuple[Run, Plan]], live: list[str], *, dry_run: bool, json: bool
) -> None:
    if json:
        told = [
            {
                "run": run.name,
                "keep": [c.step for c in plan.keep],
                "thin": [c.step for c in plan.thin],
                "drop": [c.step for c in plan.drop],
                "set_aside": [c.step for c in plan.set_aside],
            }
            for run, plan in plans
        ]
        output.print_json({"dry_run": dry_run, "runs": told, "live": live, **result})
        return
    if dry_run:
        _print_plans(plans, live, json=json)
    verb = "Would remove" if dry_run else "Removed"
    gone = f"{text.several(result['checkpoints'], 'checkpoint')} and {text.several(result['packs'], 'pack')}"
    output.say(f"{verb} {gone}: {text.size(result['freed_bytes'])}.")
    if result["thinned"]:
        verb = "Would thin" if dry_run else "Thinned"
        output.say(f"{verb} {text.several(result['thinned'], 'checkpoint')}.")
    if result["waiting"]:
        output.say(
            f"{text.several(result['waiting'], 'thing')} must wait for their grace time: prune again later."
        )


def _print_plans(plans: list[tuple[Run, Plan]], live: list[str], *, json: bool) -> None:
    if json:
        return
    rows = [(run.name, *(_steps(part) for part in (p.keep, p.thin, p.drop, p.set_aside))) for run, p in plans]
    if rows:
        headings = ("run", "keep", "make thin", "remove", "not counted")
        print_table(headings, rows, folding=headings)
    for name in live:
        output.say(f"{name} is live and keeps its own rule.")


def _steps(checkpoints: list[Any]) -> str:
    steps = [str(c.step) for c in checkpoints]
    return " ".join(steps if len(steps) <= 12 else [*steps[:4], "...", *steps[-6:]])
