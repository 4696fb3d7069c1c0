"""What is done about findings, in words."""

from __future__ import annotations

import pytest

from holdfast.domain.finding_rules import ACTIONS, MEANINGS, parse
from holdfast.errors import UsageError


@pytest.mark.parametrize("action", ACTIONS)
def test_one_word_is_for_all(action: str) -> None:
    assert parse(action) == dict.fromkeys(MEANINGS, action)


def test_what_is_not_named_is_warned_of() -> None:
    told = parse(" spike : save,plateau: ignore")
    assert told == dict.fromkeys(MEANINGS, "warn") | {"spike": "save", "plateau": "ignore"}


@pytest.mark.parametrize(
    "text", ["", "shout", "spike", "spike: shout", "weather: warn", "spike: save,", None, 3, ["warn"]]
)
def test_nonsense_is_refused_with_all_that_there_is(text: object) -> None:
    with pytest.raises(UsageError, match=r"on_finding=.*not-finite, spike, gradient, plateau, slow, gpu"):
        parse(text)
