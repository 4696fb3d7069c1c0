from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from holdfast.domain.lineage import Attempt, chain, head_attempt, recovery_points
from holdfast.domain.names import AttemptId, CheckpointId

A, B, C = (AttemptId(n, "00000000") for n in (1, 2, 3))


def point(attempt: AttemptId, sequence: int, step: int = 0, kind: str = "full") -> CheckpointId:
    return CheckpointId(
        step or sequence * 10, attempt, sequence, kind, f"{attempt.number:032x}{sequence:032x}"
    )


def based(attempt: AttemptId, base: CheckpointId | None = None) -> Attempt:
    return Attempt(attempt, based=True, base=base)


A1, A2, A3 = (point(A, n) for n in (1, 2, 3))
B1, B2 = (point(B, n) for n in (1, 2))


def test_a_run_without_attempts_has_no_line() -> None:
    assert list(chain([], [A1])) == []
    assert head_attempt([Attempt(A)]) is None


def test_the_newest_comes_first_whatever_its_step() -> None:
    rolled_back = point(A, 4, step=5)
    assert list(chain([based(A)], [A1, rolled_back, A3])) == [rolled_back, A3, A1]


def test_a_successor_without_checkpoints_resumes_from_its_base() -> None:
    assert list(chain([based(A), based(B, A2)], [A1, A2])) == [A2, A1]


def test_a_late_commit_of_a_zombie_is_a_dead_branch() -> None:
    attempts = [based(A), based(B, A2)]
    assert list(chain(attempts, [A1, A2, A3])) == [A2, A1]
    assert list(chain(attempts, [A1, A2, A3, B1])) == [B1, A2, A1]


def test_an_attempt_counts_only_once_its_base_is_recorded() -> None:
    assert next(chain([based(A), Attempt(B)], [A1, A2, B1])) == A2


def test_a_fresh_start_forgets_what_was_before() -> None:
    assert list(chain([based(A), based(B, None)], [A1, A2])) == []
    assert list(chain([based(A), based(B, None)], [A1, A2, B1])) == [B1]


def test_the_line_leads_over_all_bases() -> None:
    attempts = [based(A), based(B, A2), based(C, B1)]
    assert list(chain(attempts, [A1, A2, A3, B1, B2, point(C, 1)])) == [point(C, 1), B1, A2, A1]


def test_a_lower_attempt_that_wakes_late_is_not_the_head() -> None:
    attempts = [based(A), based(C, A1), based(B, A3)]
    assert head_attempt(attempts) == based(C, A1)
    assert list(chain(attempts, [A1, A2, A3, B1])) == [A1]


def test_another_head_can_be_looked_at() -> None:
    attempts = [based(A), based(B, A1)]
    assert list(chain(attempts, [A1, A2, B1], attempts[0])) == [A2, A1]


def test_a_base_elsewhere_ends_the_line() -> None:
    """A fork's first attempt starts from a checkpoint of another run."""
    foreign = point(AttemptId(7, "ffffffff"), 3)
    assert list(chain([based(A, foreign)], [A1])) == [A1]


def test_walking_back_skips_thin_rejected_and_missing_ones() -> None:
    thin = point(A, 3, kind="thin")
    attempts = [based(A), based(B, A2)]
    found = list(recovery_points(attempts, [A1, A2, thin, B1], {str(B1), str(A2)}))
    assert found == [A1]
    assert list(recovery_points(attempts, [A1], ())) == [A1]
    assert list(chain([based(A)], [thin, A3])) == [A3, thin]


points = st.builds(
    point, st.sampled_from([A, B, C]), st.integers(1, 4), st.integers(1, 9), st.sampled_from(["full", "thin"])
)
attempts_strategy = st.lists(
    st.builds(Attempt, st.sampled_from([A, B, C]), st.booleans(), st.none() | points),
    unique_by=lambda a: a.id,
)


@given(attempts_strategy, st.lists(points, unique=True))
def test_any_records_give_a_line_without_loops_or_strangers(
    attempts: list[Attempt], present: list[CheckpointId]
) -> None:
    line = list(chain(attempts, present))
    assert len(line) == len(set(line))
    assert set(line) <= set(present)
    head = head_attempt(attempts)
    own = [c for c in present if head is not None and c.attempt == head.id]
    assert set(line[: len(own)]) == set(own)
