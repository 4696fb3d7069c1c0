from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from holdfast.domain.failures import Reliability
from holdfast.domain.save_rules import (
    AnyOf,
    Auto,
    EveryEpochs,
    EverySeconds,
    EverySteps,
    Ladder,
    Observation,
    OnImprovement,
    Rule,
    auto_of,
    every,
    parse,
    tiers,
)
from holdfast.errors import UsageError


def seen(**values: Any) -> Observation:
    defaults: dict[str, Any] = {
        "step": 0,
        "epoch": 0,
        "saved_step": 0,
        "saved_epoch": 0,
        "seconds_since_save": 0.0,
        "save_seconds": 0.1,
        "started_seconds_ago": 1e6,
    }
    return Observation(**{**defaults, **values})


atoms: st.SearchStrategy[Rule] = st.one_of(
    st.integers(1, 10**12).map(EverySteps),
    st.integers(1, 10**6).map(EveryEpochs),
    st.floats(1e-9, 1e300).map(EverySeconds),
    st.integers(1, 10**6).map(lambda s: EverySeconds(float(s))),
    st.just(Auto()),
    st.just(OnImprovement()),
    st.lists(st.tuples(st.integers(1, 10**6), st.integers(1, 10**6)), min_size=1, max_size=3).map(
        lambda rungs: Ladder(tuple(rungs))
    ),
)
atoms = st.one_of(atoms, atoms.map(lambda rule: rule.in_memory()))
rules = st.one_of(atoms, st.lists(atoms, min_size=2, max_size=4).map(lambda parts: AnyOf(tuple(parts))))


@given(rules)
def test_the_text_of_a_rule_reads_back_as_the_rule(rule: Rule) -> None:
    assert parse(str(rule)) == rule


@pytest.mark.parametrize(
    ("text", "rule"),
    [
        ("every 100 steps", EverySteps(100)),
        ("100 steps", EverySteps(100)),
        ("every step", EverySteps(1)),
        ("Every 1 Epoch", EveryEpochs(1)),
        ("10 minutes", EverySeconds(600.0)),
        ("every 1.5 hours", EverySeconds(5400.0)),
        ("30s", EverySeconds(30.0)),
        ("auto", Auto()),
        ("best", OnImprovement()),
        ("on improvement", OnImprovement()),
        ("save 900 1, 300 10,60 10000", Ladder(((900, 1), (300, 10), (60, 10_000)))),
        ("every 5 steps|best", AnyOf((EverySteps(5), OnImprovement()))),
        (
            "save 900 1, 300 10 or 5 epochs OR auto",
            AnyOf((Ladder(((900, 1), (300, 10))), EveryEpochs(5), Auto())),
        ),
        ("never", AnyOf()),
        (None, AnyOf()),
    ],
)
def test_parse(text: str | None, rule: Rule) -> None:
    assert parse(text) == rule


@pytest.mark.parametrize(
    "text",
    ["", "often", "steps", "every", "every 0 steps", "every 1.5 steps", "-3 steps", "every 0 minutes", "save",
     "save 900", "save 900 0", "save 0 1", "best |", "every 1e999 hours", "every 10 parsecs", "100"],
)  # fmt: skip
def test_nonsense_is_refused_with_an_example(text: str) -> None:
    with pytest.raises(UsageError, match="every 100 steps"):
        parse(text)


@pytest.mark.parametrize(
    "values",
    [{}, {"steps": 0}, {"steps": 2.5}, {"epochs": -1}, {"seconds": 0}, {"minutes": float("nan")},
     {"hours": float("inf")}, {"hours": 1, "minutes": 30}],
)  # fmt: skip
def test_every_refuses_what_makes_no_sense(values: dict[str, Any]) -> None:
    with pytest.raises(UsageError):
        every(**values)


def test_what_is_no_rule_is_refused() -> None:
    with pytest.raises(UsageError, match="int"):
        parse(100)  # type: ignore[arg-type]


def test_every_of_several_is_any_of_them() -> None:
    rule = every(steps=100, minutes=10)
    assert rule == every(steps=100) | every(minutes=10) == every(steps=100) | "10 minutes"
    assert rule.due(seen(step=100)) == "every 100 steps"
    assert rule.due(seen(step=1, seconds_since_save=600.0)) == "every 10 minutes"
    assert rule.due(seen(step=99, seconds_since_save=599.0)) is None


def test_a_rule_of_the_users_own_composes() -> None:
    class AtSeven:
        def due(self, now: Observation, /) -> str | None:
            return "seven" if now.step == 7 else None

    for rule in (every(steps=100) | AtSeven(), "every 100 steps" | (Auto() | AtSeven())):
        assert rule.due(seen(step=7)) == "seven"
    assert parse(own := AtSeven()) is own


@given(st.integers(1, 50), st.lists(st.booleans(), min_size=60, max_size=60))
def test_every_multiple_of_steps_is_caught_up_at_the_next_safe_point(n: int, safe: list[bool]) -> None:
    rule, saved_step = every(steps=n), 0
    for step in range(1, 61):
        if safe[step - 1] and rule.due(seen(step=step, saved_step=saved_step)):
            assert step // n * n > saved_step or step % n == 0
            saved_step = step
        if safe[step - 1]:
            assert step // n == saved_step // n


def test_epochs_fire_at_multiples_whatever_the_steps() -> None:
    rule = every(epochs=2)
    due = [e for e in range(1, 7) if rule.due(seen(epoch=e, step=e * 9, saved_epoch=(e - 1) // 2 * 2))]
    assert due == [2, 4, 6]


def test_time_alone_saves_nothing_new() -> None:
    assert every(seconds=5).due(seen(seconds_since_save=60.0)) is None
    assert Auto().due(seen(seconds_since_save=1e6)) is None


def test_auto_learns_the_cost_early_and_then_keeps_to_its_share() -> None:
    def due(**values: Any) -> bool:
        return Auto().due(seen(step=5, **values)) is not None

    assert not due(save_seconds=None, seconds_since_save=9.0, started_seconds_ago=9.0)
    assert due(save_seconds=None, seconds_since_save=10.0, started_seconds_ago=10.0)
    assert not due(save_seconds=None, seconds_since_save=3600.0, started_seconds_ago=2.0)
    often = Reliability(1000, 1000.0)
    assert not due(save_seconds=2.0, seconds_since_save=199.0, reliability=often)
    assert due(save_seconds=2.0, seconds_since_save=200.0, reliability=often)
    assert not due(save_seconds=0.0, seconds_since_save=9.9)
    assert due(save_seconds=900.0, seconds_since_save=1800.0)


def test_auto_saves_less_often_where_failures_are_rare() -> None:
    def due(seconds: float, reliability: Reliability) -> str | None:
        return Auto().due(seen(step=5, save_seconds=0.5, seconds_since_save=seconds, reliability=reliability))

    daily = Reliability()
    assert due(292.0, daily) is None
    assert due(294.0, daily) == "auto"
    assert due(294.0, Reliability(0, 10 * 86400.0)) is None
    assert due(60.0, Reliability(50, 7200.0)) == "auto"


def test_what_is_notable_brings_a_save_of_auto_forward_as_far_as_its_cost_allows() -> None:
    def due(seconds: float, **values: Any) -> str | None:
        return Auto().due(seen(step=5, save_seconds=0.5, seconds_since_save=seconds, **values))

    assert due(50.0) is None
    assert due(50.0, notable="val_loss improved") == "auto: val_loss improved"
    assert due(49.0, notable="val_loss improved") is None
    assert due(300.0, notable="val_loss improved") == "auto"


def test_the_part_of_a_rule_that_chooses_by_itself() -> None:
    assert auto_of(parse("every 5 steps | auto")) == Auto()
    assert auto_of(parse("every 5 steps")) is None
    assert auto_of(None) is None


def test_the_ladder_saves_sooner_the_more_there_is_to_lose() -> None:
    rule = parse("save 900 1, 300 10, 60 10000")
    cases = {(60.0, 9_999): False, (60.0, 10_000): True, (299.0, 10): False, (300.0, 10): True,
             (899.0, 9): False, (900.0, 1): True, (9999.0, 0): False}  # fmt: skip
    for (seconds, steps), expected in cases.items():
        now = seen(step=40 + steps, saved_step=40, seconds_since_save=seconds)
        assert (rule.due(now) is not None) is expected, (seconds, steps)


def test_an_improvement_saves_again_at_a_step_already_saved() -> None:
    assert parse("best").due(seen(step=5, saved_step=5, improved=True)) == "best"
    assert parse("best").due(seen(step=5, saved_step=4)) is None


def test_never_never_saves() -> None:
    assert parse(None).due(seen(step=10**9, seconds_since_save=1e9, improved=True)) is None


@pytest.mark.parametrize(
    ("text", "on_disk", "in_memory"),
    [
        ("memory every 1 step, disk every 100 steps", EverySteps(100), EverySteps(1)),
        ("disk every 100 steps, memory every step", EverySteps(100), EverySteps(1)),
        ("Memory every 2 steps | every 10 minutes", EverySeconds(600.0), EverySteps(2)),
        ("memory every 2 steps", Auto(), EverySteps(2)),
        ("memory auto or memory every epoch | best", OnImprovement(), AnyOf((Auto(), EveryEpochs(1)))),
        ("memory save 900 1, 300 10, disk save 60 5, 30 7", Ladder(((60, 5), (30, 7))), "memory's"),
        ("every 100 steps", EverySteps(100), None),
        ("never", None, None),
        (None, None, None),
    ],
)
def test_a_rule_is_parted_into_what_goes_to_disk_and_what_stays_in_memory(
    text: str | None, on_disk: Rule | None, in_memory: Rule | str | None
) -> None:
    if in_memory == "memory's":
        in_memory = Ladder(((900, 1), (300, 10)))
    assert tiers(parse(text)) == (on_disk, in_memory)


def test_rules_in_code_and_in_words_say_the_same() -> None:
    in_code = every(steps=1).in_memory() | every(steps=100)
    assert in_code == parse("memory every 1 step, disk every 100 steps")
    assert every(steps=1).in_memory().in_memory() == every(steps=1).in_memory()


def test_a_rule_for_memory_asks_for_no_save() -> None:
    rule = every(steps=1).in_memory() | every(steps=100)
    assert rule.due(seen(step=1)) is None
    assert rule.due(seen(step=100)) == "every 100 steps"


@pytest.mark.parametrize("text", ["memory", "disk", "memory memory", "memory every", "ram every 1 step"])
def test_half_a_rule_for_memory_is_refused(text: str) -> None:
    with pytest.raises(UsageError, match="is no save rule"):
        parse(text)
