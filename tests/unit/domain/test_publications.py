from __future__ import annotations

import pytest

from holdfast.domain.publications import Publication, parse
from holdfast.errors import UsageError


def test_rules_are_read() -> None:
    assert parse(None) == ()
    assert parse([]) == ()
    assert parse("best -> out/best.safetensors") == (Publication("best", "out/best.safetensors"),)
    assert parse(["latest->a b/", "paper -> p.pt"]) == (
        Publication("latest", "a b/"),
        Publication("paper", "p.pt"),
    )


@pytest.mark.parametrize(
    ("given", "why"),
    [
        ("best", "is no rule"),
        ("-> x.pt", "is no rule"),
        ("best ->", "is no rule"),
        (3, "is no rule"),
        ([3], "is no rule"),
        ("500 -> x.pt", "never changes"),
        ("a/b -> x.pt", "cannot be a tag"),
        (["best -> x/", "latest -> x"], "twice"),
    ],
)
def test_what_is_no_rule_is_refused(given: object, why: str) -> None:
    with pytest.raises(UsageError, match=why):
        parse(given)
