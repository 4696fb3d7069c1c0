from __future__ import annotations

import math
from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from holdfast.domain.keep_rules import Decision, KeepRule, Kept, best, decide, is_improvement, keep, parse
from holdfast.errors import UsageError

HOUR = 3600.0


def kept(step: int, **values: Any) -> Kept:
    defaults: dict[str, Any] = {
        "id": str(step),
        "step": step,
        "epoch": step // 100,
        "saved_seconds": step * 60.0,
    }
    return Kept(**{**defaults, **values})


def ids(text: str) -> tuple[str, ...]:
    return tuple(text.split())


counts = st.integers(1, 4)
rules = st.builds(
    keep,
    last=counts,
    every_steps=st.none() | st.integers(1, 7),
    every_epochs=st.none() | st.integers(1, 3),
    every_hours=st.none() | st.floats(0.001, 1e6),
    thin=st.booleans(),
) | st.builds(
    keep,
    last=st.none() | counts,
    best=counts,
    monitor=st.sampled_from(["val_loss", "val acc", "a min", "all"]),
    mode=st.sampled_from(["min", "max"]),
    thin=st.booleans(),
)
numbers = st.sampled_from([0.0, -0.0, 1.0, 2.0, math.inf, -math.inf, math.nan])
times = st.floats() | st.sampled_from([0.0, 1e9, 1e9 + HOUR, 1e12, -5.0])


@st.composite
def histories(draw: st.DrawFn) -> list[Kept]:
    drawn = draw(
        st.lists(
            st.builds(
                Kept,
                id=st.just(""),
                step=st.integers(0, 25),
                epoch=st.integers(0, 5),
                saved_seconds=times,
                kind=st.sampled_from(["full", "full", "full", "thin"]),
                metrics=st.dictionaries(st.sampled_from(["val_loss", "val acc", "a min"]), numbers),
                tags=st.sampled_from([False, False, False, True]),
                healthy=st.booleans(),
                superseded=st.sampled_from([False, False, False, True]),
                protected=st.sampled_from([False, False, False, False, True]),
            ),
            max_size=14,
        )
    )
    return [msgspec.structs.replace(c, id=str(i)) for i, c in enumerate(drawn)]


def after(decision: Decision, history: list[Kept]) -> list[Kept]:
    """Carry the decision out: a thin one is a new commit, then the full one goes."""
    gone = {*decision.thin, *decision.drop}
    thinned = [msgspec.structs.replace(c, kind="thin") for c in history if c.id in decision.thin]
    return [c for c in history if c.id not in gone] + thinned


@given(rules | st.just(KeepRule(last=None)))
def test_the_text_of_a_rule_reads_back_as_the_rule(rule: KeepRule) -> None:
    assert parse(str(rule)) == rule


@given(rules, histories())
def test_every_checkpoint_is_decided_once_and_in_order(rule: KeepRule, history: list[Kept]) -> None:
    decision = decide(rule, history)
    everything = decision.keep + decision.thin + decision.drop
    assert sorted(everything, key=int) == [c.id for c in history]
    for part in (decision.keep, decision.thin, decision.drop):
        assert list(part) == sorted(part, key=int)


@given(rules, histories())
def test_what_must_stay_stays_as_it_is(rule: KeepRule, history: list[Kept]) -> None:
    stays = set(decide(rule, history).keep)
    fulls = [c for c in history if c.kind == "full"]
    assert {c.id for c in history if c.tags or c.protected} <= stays
    if fulls:
        assert fulls[-1].id in stays
    healthy = next((i for i in reversed(range(len(fulls))) if fulls[i].healthy), None)
    if healthy is not None:
        assert fulls[healthy].id in stays
        assert not fulls[:healthy] or stays & {c.id for c in fulls[:healthy]}
        if healthy > 0 and not fulls[healthy - 1].superseded:
            assert fulls[healthy - 1].id in stays


@given(rules, histories())
def test_last_counts_full_ones_that_nothing_supersedes(rule: KeepRule, history: list[Kept]) -> None:
    assert rule.last is not None
    counted = [c.id for c in history if c.kind == "full" and not c.superseded]
    assert set(counted[-rule.last :]) <= set(decide(rule, history).keep)


@given(counts, histories())
def test_last_bounds_the_disk(last: int, history: list[Kept]) -> None:
    plain = [msgspec.structs.replace(c, tags=False, protected=False) for c in history]
    superseded_newest = any(c.superseded and c.kind == "full" for c in plain)
    assert len(decide(keep(last=last), plain).keep) <= last + 2 + superseded_newest


@given(rules, histories())
def test_deciding_again_changes_nothing(rule: KeepRule, history: list[Kept]) -> None:
    if rule.every_steps or rule.every_epochs:  # with hours besides, one of two of a step may give way
        rule = msgspec.structs.replace(rule, every_hours=None)
    left = after(decide(rule, history), history)
    assert decide(rule, left) == Decision(tuple(c.id for c in left), (), ())


@given(rules, histories(), st.lists(times, min_size=14, max_size=14))
def test_forged_times_steer_nothing_but_every_hours(
    rule: KeepRule, history: list[Kept], forged: list[float]
) -> None:
    rule = msgspec.structs.replace(rule, every_hours=None)
    moved = [msgspec.structs.replace(c, saved_seconds=t) for c, t in zip(history, forged, strict=False)]
    assert decide(rule, history) == decide(rule, moved)


@given(rules, histories())
def test_only_thin_makes_thin_and_only_of_full_ones(rule: KeepRule, history: list[Kept]) -> None:
    thin = decide(rule, history).thin
    assert rule.thin or not thin
    assert all(c.kind == "full" for c in history if c.id in thin)


@given(histories(), st.sampled_from(["min", "max"]), counts)
def test_best_agrees_with_is_improvement(history: list[Kept], mode: Any, k: int) -> None:
    top = best(history, "val_loss", mode, k)
    assert all(math.isfinite(c.metrics["val_loss"]) and not c.superseded for c in top)
    seen: list[float] = []
    for c in history:
        if c.superseded or "val_loss" not in c.metrics:
            continue
        value = c.metrics["val_loss"]
        so_far = history[: int(c.id) + 1]
        assert is_improvement(value, seen, mode, k) is (c in best(so_far, "val_loss", mode, k))
        seen.append(value)


def test_last() -> None:
    history = [kept(s) for s in (100, 200, 300, 400)]
    assert decide(keep(last=2), history) == Decision(ids("300 400"), (), ids("100 200"))


def test_a_newer_commit_of_an_older_step_is_the_newest() -> None:
    history = [kept(s, saved_seconds=9e9 - s) for s in (900, 1000, 950)]
    assert decide(keep(last=1), history).keep == ids("950")


def test_three_bad_saves_do_not_evict_the_healthy_one_and_the_one_before() -> None:
    history = [kept(1), kept(2), kept(3, healthy=True), kept(4), kept(5), kept(6)]
    assert decide(keep(last=2), history) == Decision(ids("2 3 5 6"), (), ids("1 4"))


def test_best_ties_go_to_the_older_and_nan_or_no_metric_is_never_best() -> None:
    values = {1: math.nan, 2: 0.5, 3: 0.5, 4: 0.7, 5: -math.inf}
    history = [kept(s, metrics={"loss": v}) for s, v in values.items()] + [kept(6), kept(7)]
    rule = keep(last=1, best=1, monitor="loss")
    assert decide(rule, history) == Decision(ids("2 7"), (), ids("1 3 4 5 6"))
    assert [c.id for c in best(history, "loss", "max", 2)] == ["4", "2"]
    assert not is_improvement(0.5, values.values(), "min")
    assert is_improvement(0.5, [0.5, 0.7], "min", 2)
    assert not is_improvement(math.nan, [], "min")


def test_every_keeps_the_first_at_or_after_each_multiple() -> None:
    history = [kept(s) for s in (0, 90, 200, 299, 300, 510, 590, 700)]
    assert decide(keep(last=1, every_steps=100), history).keep == ids("200 300 510 700")
    assert decide(keep(last=1, every_epochs=2), history).keep == ids("200 510 700")
    assert decide(keep(every_hours=5), history).keep == ids("300 700")


@pytest.mark.parametrize("thin", [False, True])
def test_a_checkpoint_forever_kept_stays_the_chosen_one_as_the_run_goes_on(thin: bool) -> None:
    rule, history = keep(last=2, every_steps=10, thin=thin), list[Kept]()
    for step in range(3, 70, 3):
        history.append(kept(step))
        history = after(decide(rule, history), history)
    assert sorted(c.step for c in history) == [12, 21, 30, 42, 51, 60, 66, 69]
    assert {c.step for c in history if c.kind == "thin"} == ({12, 21, 30, 42, 51, 60} if thin else set())


def test_thin_makes_the_older_ones_thin_but_not_the_best() -> None:
    history = [kept(s, metrics={"acc": -float(s)}) for s in (100, 200, 250, 300, 400)]
    rule = keep(last=1, best=1, monitor="acc", mode="max", every_steps=100, thin=True)
    decision = decide(rule, history)
    assert decision == Decision(ids("100 400"), ids("200 300"), ids("250"))
    assert decide(keep(last=2, thin=True), history) == Decision(ids("300 400"), ids("100 200 250"), ())


def test_a_thin_one_takes_the_place_of_the_full_one_it_was_made_from() -> None:
    rule = keep(last=1, every_steps=100, thin=True)
    full, thin, newest = kept(100), kept(100, id="100t", kind="thin"), kept(250)
    marked = msgspec.structs.replace(full, superseded=True)
    for old in (full, marked):
        assert decide(rule, [old, newest, thin]) == Decision(ids("250 100t"), (), ids("100"))


def test_the_line_comes_before_dead_branches() -> None:
    dead = kept(100, id="dead", metrics={"acc": 9.0}, on_line=False)
    history = [dead, kept(120, metrics={"acc": 2.0}), kept(190, metrics={"acc": 1.0}), kept(230)]
    assert decide(keep(last=1, every_steps=100), history) == Decision(ids("120 230"), (), ids("dead 190"))
    best_one = keep(last=1, best=1, monitor="acc", mode="max")
    assert decide(best_one, history) == Decision(ids("120 230"), (), ids("dead 190"))
    assert decide(keep(last=1, every_steps=100), [dead, kept(200), kept(230)]).keep == ids("dead 200 230")


def test_a_superseded_one_goes_and_is_not_counted() -> None:
    history = [kept(1), kept(2, id="2a", superseded=True), kept(2), kept(3)]
    assert decide(keep(last=3), history) == Decision(ids("1 2 3"), (), ids("2a"))


def test_all_keeps_all() -> None:
    history = [kept(1), kept(2, superseded=True), kept(3, kind="thin")]
    assert decide(parse("all"), history).keep == ids("1 2 3")


@pytest.mark.parametrize(
    ("text", "rule"),
    [
        ("last 3", keep(last=3)),
        ("Last 3, best 2 val_loss min", keep(last=3, best=2, monitor="val_loss")),
        ("last 3, best 2 Acc MAX", keep(last=3, best=2, monitor="Acc", mode="max")),
        ("best 1 val_loss", keep(best=1, monitor="val_loss")),
        ("best 1 val loss max", keep(best=1, monitor="val loss", mode="max")),
        ("last 3, every 1000 steps", keep(last=3, every_steps=1000)),
        ("last 3, every 1.5 hours, every epoch", keep(last=3, every_hours=1.5, every_epochs=1)),
        ("last 3, then thin every 1000 steps", keep(last=3, every_steps=1000, thin=True)),
        ("last 3, then thin", keep(last=3, thin=True)),
        ("last 3, every 5 epochs, thin", keep(last=3, every_epochs=5, thin=True)),
    ],
)
def test_parse(text: str, rule: KeepRule) -> None:
    assert parse(text) == rule
    assert parse(rule) is rule


@pytest.mark.parametrize(
    "text",
    [
        "",
        "3",
        "last",
        "last 0",
        "last 3,",
        "last 3, last 4",
        "best 2",
        "best 0 loss",
        "best 1 loss, best 1 acc",
        "every 0 steps",
        "every 1.5 steps",
        "thinevery 3 steps",
        "every 1e999 hours",
        "last 3 every 10 steps",
        "none",
    ],
)
def test_nonsense_is_refused_with_an_example(text: str) -> None:
    with pytest.raises(UsageError, match="Write"):
        parse(text)


@pytest.mark.parametrize(
    ("text", "why"),
    [
        ("last 3, best 2 val_loss mix", "does not end 'best 2 val_loss mix' with 'min' or 'max'"),
        ("last 0", "'last 0' holds a number that is not above zero"),
        ("last 3, every 0 hours", "'last 3, every 0 hours' holds a number that is not above zero"),
    ],
)
def test_a_mistake_is_named_as_it_was_written(text: str, why: str) -> None:
    with pytest.raises(UsageError, match=why):
        parse(text)


@pytest.mark.parametrize(
    "options",
    [
        {},
        {"last": 0},
        {"last": 1.5},
        {"best": 2},
        {"monitor": "loss"},
        {"best": 1, "monitor": "a", "mode": "low"},
        {"best": 1, "monitor": "a,b"},
        {"last": 3, "every_steps": 0},
        {"every_hours": math.nan},
        {"last": -1},
    ],
)
def test_keep_refuses_what_makes_no_sense(options: dict[str, Any]) -> None:
    with pytest.raises(UsageError):
        keep(**options)


def test_what_is_no_rule_is_refused() -> None:
    with pytest.raises(UsageError, match="int"):
        parse(3)  # type: ignore[arg-type]
