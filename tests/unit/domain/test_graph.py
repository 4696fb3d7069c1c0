from __future__ import annotations

from collections.abc import Sequence

from hypothesis import given
from hypothesis import strategies as st

from holdfast.domain.graph import Node, Row, draw, nearest_parents
from holdfast.domain.lineage import Attempt
from holdfast.domain.names import AttemptId, CheckpointId


def point(attempt: AttemptId, sequence: int, kind: str = "full") -> CheckpointId:
    digest = f"{attempt.number:016x}{int(attempt.nonce, 16):016x}{sequence:032x}"
    return CheckpointId(sequence * 10, attempt, sequence, kind, digest)


def attempt(number: int, nonce: int = 0) -> AttemptId:
    return AttemptId(number, f"{nonce:08x}")


def based(which: AttemptId, base: CheckpointId | None = None) -> Attempt:
    return Attempt(which, based=True, base=base)


A, B, C = (attempt(n) for n in (1, 2, 3))
F = attempt(1, nonce=7)
A1, A2, A3 = (point(A, n) for n in (1, 2, 3))
B1, B2 = (point(B, n) for n in (1, 2))
F1, F2 = (point(F, n) for n in (1, 2))


def parents_in_one(attempts: list[Attempt], found: list[CheckpointId]) -> dict[CheckpointId, object]:
    parents = nearest_parents({"r": attempts}, {"r": found})
    return {node.id: parent and parent.id for node, parent in parents.items()}


def test_saves_of_an_attempt_descend_from_each_other() -> None:
    assert parents_in_one([based(A)], [A3, A1, A2]) == {A1: None, A2: A1, A3: A2}


def test_what_retention_has_removed_is_passed_over() -> None:
    assert parents_in_one([based(A), based(B, A2)], [A1, A3, B1]) == {A1: None, A3: A1, B1: A1}
    attempts = [based(A), based(B, A2), based(C, B1)]
    assert parents_in_one(attempts, [A2, point(C, 1)]) == {A2: None, point(C, 1): A2}


def test_a_zombies_late_commit_is_no_parent() -> None:
    assert parents_in_one([based(A), based(B, A2)], [A1, A2, A3, B1])[B1] == A2


def test_an_attempt_that_recorded_no_base_descends_from_nothing() -> None:
    assert parents_in_one([based(A), Attempt(B)], [A1, B1]) == {A1: None, B1: None}


def test_a_fork_descends_from_another_run_even_when_its_copy_is_gone() -> None:
    attempts = {"a": [based(A)], "b": [based(F, A2), based(B, F1)]}
    parents = nearest_parents(attempts, {"a": [A1, A2, A3], "b": [F1, B1]})
    assert parents[Node("b", F1)] == Node("a", A2)
    assert parents[Node("b", B1)] == Node("b", F1)
    parents = nearest_parents(attempts, {"a": [A1], "b": [B1]})
    assert parents[Node("b", B1)] == Node("a", A1)


def test_a_run_under_two_names_descends_from_itself() -> None:
    """As while it is renamed."""
    attempts = {"new": [based(A), based(B, A1)], "old": [based(A), based(B, A1)]}
    parents = nearest_parents(attempts, {"new": [A1, B1], "old": [A1, B1]})
    assert parents[Node("old", B1)] == Node("old", A1)
    assert parents[Node("new", B1)] == Node("new", A1)


def test_forged_bases_that_go_round_in_circles_end() -> None:
    attempts = {"a": [based(A, F1)], "b": [based(F, A1)]}
    assert nearest_parents(attempts, {"a": [A2], "b": []}) == {Node("a", A2): None}


def newest(node: Node) -> tuple[object, ...]:
    return (-node.id.attempt.number, -node.id.sequence, node.run, node.id.digest)


def drawn(parents: dict[Node, Node | None]) -> list[str]:
    rows = draw(parents, lambda parent, node: (parent is not None and node.run != parent.run, newest(node)))
    return [f"{lines}* {node.run}{node.id.step}" if node is not None else lines for lines, node in rows]


def test_drawings() -> None:
    attempts = {"a": [based(A), based(B, A2)], "b": [based(F, A1)]}
    parents = nearest_parents(attempts, {"a": [A1, A2, A3, B1, B2], "b": [F1, F2]})
    assert drawn(parents) == [
        "* a20",
        "* a10",
        "| * a30",
        "|/",
        "* a20",
        "| * b20",
        "| * b10",
        "|/",
        "* a10",
    ]
    assert drawn({}) == []
    assert drawn({Node("a", A1): None, Node("a", B1): None}) == ["* a10", "", "* a10"]
    assert drawn({Node("b", F1): Node("a", A1)}) == ["* b10"]


@st.composite
def histories(draw_: st.DrawFn) -> tuple[dict[str, list[Attempt]], dict[str, list[CheckpointId]]]:
    """Runs that saved, were rolled back and forked; and of whose checkpoints some are gone."""
    attempts: dict[str, list[Attempt]] = {}
    everything: list[tuple[str, CheckpointId]] = []
    for nonce in range(draw_(st.integers(1, 8))):
        run = draw_(st.sampled_from("abc"))
        known = attempts.setdefault(run, [])
        own = [c for name, c in everything if name == run]
        bases = own if known else [c for _, c in everything]
        base = draw_(st.none() | st.sampled_from(bases)) if bases else None
        new = attempt(len(known) + 1, nonce)
        known.append(based(new, base))
        everything += [(run, point(new, n)) for n in range(1, draw_(st.integers(0, 4)) + 1)]
    kept = [pair for pair in everything if draw_(st.integers(0, 3))]
    return attempts, {run: [c for name, c in kept if name == run] for run in attempts}


@given(histories())
def test_each_checkpoint_is_drawn_once_and_its_line_leads_down_to_its_parent(
    history: tuple[dict[str, list[Attempt]], dict[str, list[CheckpointId]]],
) -> None:
    parents = nearest_parents(*history)
    assert {(node.run, node.id) for node in parents} == {(r, c) for r, f in history[1].items() for c in f}
    rows = list(draw(parents, lambda parent, node: newest(node)))
    nodes = [node for _, node in rows if node is not None]
    assert sorted(nodes, key=str) == sorted(parents, key=str)
    for number, (lines, node) in enumerate(rows):
        if node is not None:
            assert _followed(rows[number + 1 :], len(lines)) == parents[node]


def _followed(below: Sequence[Row], column: int) -> Node | None:
    """Where the line that goes down from a mark leads."""
    for lines, node in below:
        if node is not None and len(lines) == column:
            return node
        if lines == "" and node is None:
            return None
        if node is None and len(lines) == column:
            assert lines.endswith("|/")
            column -= 2
        else:
            assert lines[column] == "|"
    return None
