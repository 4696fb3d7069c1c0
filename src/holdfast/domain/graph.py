"""The tree that checkpoints form, across attempts and runs, and how it is drawn."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import partial
from typing import Any, NamedTuple

from holdfast.domain.lineage import Attempt
from holdfast.domain.names import AttemptId, CheckpointId


class Node(NamedTuple):
    """A checkpoint of a run."""

    run: str
    id: CheckpointId


class Row(NamedTuple):
    """One line of a drawing: lines of branches, and the node they lead to, if it is a node's."""

    lines: str
    node: Node | None


Place = tuple[str, AttemptId]
Parents = Mapping[Node, Node | None]


def nearest_parents(
    attempts: Mapping[str, Sequence[Attempt]], checkpoints: Mapping[str, Sequence[CheckpointId]]
) -> dict[Node, Node | None]:
    """Of each checkpoint the nearest one it descends from that is still there; None for the first.

    Attempt and sequence decide, as on a run's line; a fork's base leads to another run.

    Parameters
    ----------
    attempts, checkpoints : mapping
        By run.
    """
    bases = {(run, a.id): a.base for run, known in attempts.items() for a in known if a.based}
    owners = {attempt: (run, attempt) for run, attempt in bases}
    saves: dict[Place, list[CheckpointId]] = defaultdict(list)
    for run, found in checkpoints.items():
        for checkpoint in sorted(found, key=_order):
            saves[run, checkpoint.attempt].append(checkpoint)
    parents: dict[Node, Node | None] = {}
    for place, own in saves.items():
        previous = _newest_before(place, bases, owners, saves)
        for checkpoint in own:
            parents[Node(place[0], checkpoint)] = previous
            previous = Node(place[0], checkpoint)
    return parents


def _order(checkpoint: CheckpointId) -> tuple[int, bool]:
    return (checkpoint.sequence, checkpoint.kind == "full")


def _newest_before(
    place: Place,
    bases: Mapping[Place, CheckpointId | None],
    owners: Mapping[AttemptId, Place],
    saves: Mapping[Place, Sequence[CheckpointId]],
) -> Node | None:
    """The newest checkpoint present on the line that leads to an attempt."""
    passed = {place}
    while (base := bases.get(place)) is not None:
        own = (place[0], base.attempt)
        place = own if own in bases else owners.get(base.attempt, own)
        if place in passed:
            return None  # only forged bases go round in circles
        passed.add(place)
        older = [c for c in saves.get(place, ()) if c.sequence <= base.sequence]
        if older:
            return Node(place[0], older[-1])
    return None


class _Branch(NamedTuple):
    lines: str
    node: Node


def draw(parents: Parents, rank: Callable[[Node | None, Node], Any]) -> Iterator[Row]:
    """Draw a forest, each checkpoint above the one it descends from, main lines to the left.

    Between trees an empty line is left.

    Parameters
    ----------
    parents : mapping
        Of every node to be drawn; a parent that is not among them counts as none.
    rank : callable
        Given a node and a child of it (or None and what has no parent), orders such children: the
        first goes on straight up, or is drawn on top.
    """
    children: dict[Node | None, list[Node]] = defaultdict(list)
    for node, parent in parents.items():
        children[parent if parent in parents else None].append(node)
    for parent, found in children.items():
        found.sort(key=partial(rank, parent))
    gap = Row("", None)  # or one tree would seem to go on as the next
    forest: list[_Branch | Row] = [item for root in children[None] for item in (gap, _Branch("", root))]
    pending = forest[:0:-1]
    while pending:
        item = pending.pop()
        if isinstance(item, Row):
            yield item
        else:
            pending.extend(reversed(list(_laid_out(item, children))))


def _laid_out(branch: _Branch, children: Mapping[Node | None, list[Node]]) -> Iterator[_Branch | Row]:
    """A straight line from its tip down to its root, the branches that leave it beside it."""
    line = [branch.node]
    while children.get(line[-1]):
        line.append(children[line[-1]][0])
    for node in reversed(line):
        for side in children.get(node, [])[1:]:
            yield _Branch(f"{branch.lines}| ", side)
            yield Row(f"{branch.lines}|/", None)
        yield Row(branch.lines, node)
