"""The table of rules, and how flags change it."""

from __future__ import annotations

import pytest

from holdfast.errors import UsageError
from holdfast.supervisor.causes import Cause
from holdfast.supervisor.rules import MEANINGS, RULES, Rule, changed


def test_every_cause_has_a_rule_and_a_meaning() -> None:
    assert set(RULES) == set(MEANINGS) == set(Cause) - {Cause.FINISHED}


def test_a_mistake_is_never_tried_again() -> None:
    assert [cause for cause, rule in RULES.items() if not rule.restarts] == [
        Cause.CONFIGURATION,
        Cause.TAKEN,
        Cause.PREEMPTED,
        Cause.INTERRUPTED,
    ]


def test_rules_are_read_as_they_are_written() -> None:
    for cause, rule in RULES.items():
        if cause not in (Cause.PREEMPTED, Cause.INTERRUPTED):
            assert changed({}, [f"{cause}: {rule}"]) == {cause: rule}


def test_a_flag_replaces_one_rule() -> None:
    table = changed(RULES, ["hang: restart 7, wait 1.5", "exception:stop"])
    assert table[Cause.HANG] == Rule(7, 1.5, 0)
    assert table[Cause.EXCEPTION] == Rule()
    assert table[Cause.CRASH] == RULES[Cause.CRASH]


@pytest.mark.parametrize(
    "text",
    [
        "",
        "hang",
        "hang:",
        "hang: maybe",
        "hang: wait 3",
        "hang: restart",
        "hang: restart -1",
        "hang: restart 1.5",
        "hang: restart 1, restart 2",
        "fire: stop",
        "preempted: restart 3",
        "finished: stop",
        "hang: restart 1;",
    ],
)
def test_what_cannot_be_understood_is_refused(text: str) -> None:
    with pytest.raises(UsageError, match="--on"):
        changed(RULES, [text])
