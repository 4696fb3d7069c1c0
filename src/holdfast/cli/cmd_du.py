"""``holdfast du``: what takes up how much, and what deleting would free."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from holdfast.cli import output, text
from holdfast.cli.options import (
    JsonOption,
    MaybeRuns,
    RepositoryOption,
    find_runs,
    is_pattern,
    open_repository,
)
from holdfast.cli.options import find_run as find_one
from holdfast.cli.table import print_table

if TYPE_CHECKING:
    from holdfast.repository.repository import Repository
    from holdfast.repository.space import Space, Survey

EXAMPLES = ("holdfast du", "holdfast du digits", "holdfast du --json")


def command(
    run: MaybeRuns = None,
    repository: RepositoryOption = None,
    json: JsonOption = False,
) -> None:
    """Show space by run, or by checkpoint of RUN.

    LOGICAL counts tensors as often as they were saved; ON DISK counts the packs needed, shared
    ones too; UNIQUE is what deleting would free.
    """
    from holdfast.repository.space import Survey

    opened = open_repository(repository)
    if run is not None and not is_pattern(run):
        find_one(opened, run)
        rows = _checkpoint_rows(Survey(opened), run)
        _show(opened, rows, None, json=json, one="checkpoints")
    else:
        names = [r.name for r in find_runs(opened, run)]
        survey = Survey(opened)
        by_run = survey.by_run()
        rows = [
            {"run": n, "checkpoints": len(by_run.get(n, [])), **_spelled(survey.of(n, by_run.get(n, [])))}
            for n in names
        ]
        _show(opened, rows, survey, json=json, one="runs")


def _checkpoint_rows(survey: Survey, run: str) -> list[dict[str, Any]]:
    rows = []
    for checkpoint in survey.by_run().get(run, []):
        known = survey.needs[run, checkpoint] is not None
        space = _spelled(survey.of(run, [checkpoint]))
        rows.append(
            {
                "address": f"{run}@{checkpoint.step}",
                "id": str(checkpoint),
                "step": checkpoint.step,
                "kind": checkpoint.kind,
                **(space if known else dict.fromkeys(space)),
            }
        )
    return rows


def _spelled(space: Space) -> dict[str, Any]:
    return {
        "logical_bytes": space.logical_bytes,
        "disk_bytes": space.disk_bytes,
        "unique_bytes": space.unique_bytes,
    }


def _show(
    repository: Repository, rows: list[dict[str, Any]], survey: Survey | None, *, json: bool, one: str
) -> None:
    storage = repository.storage
    total = _spelled(survey.whole()) if survey is not None else None
    orphan_bytes = survey.orphan_bytes() if survey is not None else None
    if json:
        told: dict[str, Any] = {"repository": storage.location, one: rows}
        if total is not None:
            told |= {"total": total, "orphan_bytes": orphan_bytes, "free_bytes": storage.free_bytes()}
        output.print_json(told)
        return
    sizes = ("logical_bytes", "disk_bytes", "unique_bytes")
    cells = [
        (
            row.get("run") or str(row["step"]),
            str(row.get("checkpoints") or row.get("kind") or 0),
            *(text.size(row[name]) for name in sizes),
        )
        for row in rows
    ]
    first = ("run", "checkpoints>") if one == "runs" else ("step>", "kind")
    print_table((*first, "logical>", "on disk>", "unique>"), cells, folding=("run",))
    if total is not None:
        output.say(f"In all {text.size(total['disk_bytes'])} on disk.")
    if orphan_bytes:
        output.say(f"{text.size(orphan_bytes)} belong to no checkpoint: 'holdfast prune' removes them.")
