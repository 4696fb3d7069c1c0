"""What is done about findings, in words."""

from __future__ import annotations

import pytest

from holdfast.domain.finding_rules import ACTIONS, MEANINGS, parse, settled
from holdfast.errors import UsageError


@pytest.mark.parametrize("action", ACTIONS)
def test_one_word_is_for_all(action: str) -> None:
    assert parse(action) == dict.fromkeys(MEANINGS, action)


def test_what_is_not_named_is_warned_of() -> None:
    told = parse(" spike : save,plateau: ignore")
    assert told == dict.fromkeys(MEANINGS, "auto") | {"spike": "save", "plateau": "ignore"}


def test_auto_warns_and_goes_back_from_a_bad_resume_where_that_can_be() -> None:
    rules = parse("spike: save")
    warns = dict.fromkeys(MEANINGS, "warn") | {"spike": "save"}
    assert settled(rules, goes_back=False) == warns
    assert settled(rules, goes_back=True) == warns | {"seam": "back", "probe": "back"}
    assert settled(parse("warn"), goes_back=True) == dict.fromkeys(MEANINGS, "warn")


@pytest.mark.parametrize(
    "text", ["", "shout", "spike", "spike: shout", "weather: warn", "spike: save,", None, 3, ["warn"]]
)
def test_nonsense_is_refused_with_all_that_there_is(text: object) -> None:
    with pytest.raises(UsageError, match=r"on_finding=.*not-finite, spike, gradient, .* probe"):
        parse(text)
