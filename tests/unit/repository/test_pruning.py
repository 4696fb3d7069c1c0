"""Applying a keep rule from outside: what was planned, and is still right."""

from __future__ import annotations

from checkpoints import assert_restores, begin, make_repository, make_state, save
from holdfast.domain.keep_rules import parse
from holdfast.domain.names import CheckpointId
from holdfast.repository.pruning import Plan, apply, plan
from holdfast.repository.run import Run
from holdfast.storage.memory import MemoryStorage


def planned(rule: str) -> tuple[Run, list[CheckpointId], Plan]:
    run = make_repository(MemoryStorage()).run("digits")
    attempt = begin(run)
    made = [save(run, attempt, number, number * 10).id for number in range(1, 5)]
    return run, made, plan(run, parse(rule), is_model=lambda value: True)


def applied(run: Run, decided: Plan) -> list[CheckpointId]:
    return apply(run, decided, is_model=lambda value: True).checkpoints


def test_what_a_restart_goes_back_to_since_it_was_planned_stays() -> None:
    run, made, decided = planned("last 1")
    run.record_base(run.begin_attempt(), made[0])
    assert made[0] in decided.drop
    assert applied(run, decided) == [made[1]]
    assert run.latest() == made[0]
    assert_restores(run, {made[0]: make_state(10)})


def test_what_takes_the_place_of_those_rejected_since_it_was_planned_stays() -> None:
    run, made, decided = planned("last 2")
    run.reject(made[2], "test")
    run.reject(made[3], "test")
    assert applied(run, decided) == []
    assert run.latest() == made[1]


def test_what_is_kept_whole_by_now_is_not_thinned() -> None:
    run, made, decided = planned("last 1, then thin every 10 steps")
    run.record_base(run.begin_attempt(), made[1])
    assert made[1] in decided.thin
    assert made[1] not in applied(run, decided)
    assert run.latest() == made[1]
