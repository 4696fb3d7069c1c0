"""Checkpoints as a tree: for people drawn, for programs with the parent of each."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from holdfast.cli import output
from holdfast.cli.table import print_table
from holdfast.cli.told import entry_json, metrics_of, notes

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from holdfast.domain.graph import Node, Parents
    from holdfast.domain.lineage import Attempt
    from holdfast.repository.overview import Entry
    from holdfast.repository.run import Run


def show_graph(runs: Sequence[Run], *, json: bool) -> None:
    """Draw the checkpoints of these runs, newest above."""
    from holdfast.domain.graph import Node, nearest_parents
    from holdfast.repository.overview import entries

    found = {Node(run.name, e.id): e for run in runs for e in entries(run)}
    attempts = {run.name: run.attempts() for run in runs}
    checkpoints = {run.name: [node.id for node in found if node.run == run.name] for run in runs}
    parents = nearest_parents(attempts, checkpoints)
    if json:
        output.print_json(_told(runs, attempts, parents, found))
    elif found:
        _print(parents, found)
    else:
        output.say("There are no checkpoints.")


def _print(parents: Parents, found: Mapping[Node, Entry]) -> None:
    from holdfast.domain.graph import draw

    def rank(parent: Node | None, node: Node) -> Any:
        """A run's own line goes straight up; then its dead branches, then forks by name."""
        leaves = parent is not None and node.run != parent.run
        newest = (-node.id.attempt.number, -node.id.sequence)
        return (leaves, node.run, not found[node].on_line, newest, node.id.digest)

    rows = []
    for lines, node in draw(parents, rank):
        if node is None:
            rows.append((lines, "", "", "", ""))
            continue
        entry = found[node]
        place = f"{lines}{_mark(entry)} {node.run}@{node.id.step}"
        reason = entry.summary.reason if entry.summary is not None else "?"
        rows.append((place, str(node.id.attempt.number), metrics_of(entry), notes(entry), reason))
    columns = ("checkpoint", "attempt>", "metrics", "notes", "reason")
    print_table(columns, rows, folding=("metrics", "notes", "reason"))


def _mark(entry: Entry) -> str:
    """``x`` for what is rejected or damaged, ``o`` for a dead branch, ``*`` for all else."""
    if entry.rejected or entry.damage is not None:
        return "x"
    return "*" if entry.on_line else "o"


def _told(
    runs: Sequence[Run],
    attempts: Mapping[str, Sequence[Attempt]],
    parents: Parents,
    found: Mapping[Node, Entry],
) -> dict[str, Any]:
    checkpoints = []
    for node, entry in found.items():
        parent = parents[node]
        nearest = {"run": parent.run, "id": str(parent.id)} if parent is not None else None
        checkpoints.append({**entry_json(entry), "nearest": nearest})
    told = []
    for run in runs:
        ends = run.ends()
        for attempt in attempts[run.name]:
            end = ends.get(attempt.id)
            told.append(
                {
                    "run": run.name,
                    "attempt": str(attempt.id),
                    "based": attempt.based,
                    "base": str(attempt.base) if attempt.base is not None else None,
                    "cause": end.cause if end is not None else None,
                }
            )
    return {"checkpoints": checkpoints, "attempts": told}
