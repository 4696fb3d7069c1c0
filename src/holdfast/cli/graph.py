"""Checkpoints as a tree: for people drawn, for programs with the parent of each."""

from __future__ import annotations

from collections import defaultdict
from contextlib import suppress
from typing import TYPE_CHECKING, Any

from holdfast.cli import output
from holdfast.cli.table import print_table
from holdfast.cli.told import entry_json, metrics_of, notes

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from holdfast.domain.graph import Node, Parents
    from holdfast.domain.lineage import Attempt
    from holdfast.repository.overview import Entry
    from holdfast.repository.repository import Repository
    from holdfast.repository.run import Run


def show_graph(repository: Repository, runs: Sequence[Run], *, json: bool) -> None:
    """Draw the checkpoints of these runs, newest above; of others only name what was forked from them."""
    from holdfast.domain.graph import Node
    from holdfast.repository.overview import entries

    found = {Node(run.name, e.id): e for run in runs for e in entries(run)}
    attempts = {run.name: run.attempts() for run in runs}
    parents = _parents(repository, attempts)
    if json:
        output.print_json(_told(runs, attempts, parents, found))
    elif found:
        _print(parents, found)
    else:
        output.say("There are no checkpoints.")


def _parents(repository: Repository, attempts: Mapping[str, Sequence[Attempt]]) -> Parents:
    from holdfast.domain.graph import nearest_parents
    from holdfast.errors import DamagedError

    known, checkpoints = dict(attempts), {}
    for run in repository.runs():
        checkpoints[run.name] = run.checkpoints()
        if run.name not in known:
            with suppress(DamagedError):  # of a run that is not drawn
                known[run.name] = run.attempts()
    return nearest_parents(known, checkpoints)


def _print(parents: Parents, found: Mapping[Node, Entry]) -> None:
    from holdfast.domain.graph import draw

    def rank(parent: Node | None, node: Node) -> Any:
        """A run's own line goes straight up; then its dead branches, then forks by name."""
        leaves = parent is not None and node.run != parent.run
        newest = (-node.id.attempt.number, -node.id.sequence)
        return (leaves, node.run, not found[node].on_line, newest, node.id.digest)

    forks = _forks_elsewhere(parents, found)
    rows: list[tuple[str, ...]] = []
    for lines, node in draw({node: parents.get(node) for node in found}, rank):
        if node is None:
            rows.append((lines, "", "", "", ""))
        else:
            special = [f"fork: {run}" for run in forks[node]] + _lost_parent(parents.get(node), found[node])
            rows.append(_row(lines, found[node], special))
    columns = ("checkpoint", "attempt>", "metrics", "notes", "reason")
    print_table(columns, rows, folding=("metrics", "notes", "reason"))


def _row(lines: str, entry: Entry, special: list[str]) -> tuple[str, ...]:
    return (
        f"{lines}{_mark(entry)} {entry.run}@{entry.id.step}",
        str(entry.id.attempt.number),
        metrics_of(entry),
        ", ".join(filter(None, (notes(entry), *special))),
        entry.summary.reason if entry.summary is not None else "?",
    )


def _forks_elsewhere(parents: Parents, found: Mapping[Node, Entry]) -> dict[Node, list[str]]:
    """Runs not drawn that leave from a checkpoint that is."""
    forks: dict[Node, list[str]] = defaultdict(list)
    for node, parent in parents.items():
        if parent is not None and parent in found and node not in found and node.run != parent.run:
            forks[parent].append(node.run)
    return forks


def _lost_parent(nearest: Node | None, entry: Entry) -> list[str]:
    """Where a tree begins though its first checkpoint descends from another, which is gone."""
    from holdfast.domain.names import CheckpointId

    told = entry.summary.parent if entry.summary is not None and nearest is None else None
    parent = CheckpointId.parse(told) if told is not None else None
    return [f"from step {parent.step}, gone"] if parent is not None else []


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
        parent = parents.get(node)
        nearest = {"run": parent.run, "id": str(parent.id)} if parent is not None else None
        checkpoints.append({**entry_json(entry), "nearest": nearest})
    return {"checkpoints": checkpoints, "attempts": [t for run in runs for t in _attempts(run, attempts)]}


def _attempts(run: Run, attempts: Mapping[str, Sequence[Attempt]]) -> list[dict[str, Any]]:
    ends = run.ends()
    return [
        {
            "run": run.name,
            "attempt": str(attempt.id),
            "based": attempt.based,
            "base": str(attempt.base) if attempt.base is not None else None,
            "cause": ends[attempt.id].cause if attempt.id in ends else None,
        }
        for attempt in attempts[run.name]
    ]
