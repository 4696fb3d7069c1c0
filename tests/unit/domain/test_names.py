from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from holdfast.domain.names import (
    COMPUTED_TAGS,
    RESERVED_SEGMENTS,
    Address,
    AttemptId,
    CheckpointId,
    parse_at,
    validate_run,
    validate_tag,
)
from holdfast.errors import UsageError

DIGEST = "ab" * 32


@pytest.mark.parametrize("name", ["digits", "sweep/lr3", "a/b/c", "_x", "lr=0.1+wd", "v1.2-rc", "A" * 100])
def test_good_names_of_runs(name: str) -> None:
    assert validate_run(name) == name


BAD = [
    "",
    "/",
    "a/",
    "/a",
    "a//b",
    ".",
    "..",
    "a/../b",
    ".hidden",
    "-x",
    "a b",
    "a\n",
    "ä",
    "a\0",
    "a@b",
    "A" * 101,
    "a\\b",
    "~",
]


@pytest.mark.parametrize("name", [*BAD, *RESERVED_SEGMENTS, "a/attempts", "/".join(["abcd"] * 60)])
def test_bad_names_of_runs(name: str) -> None:
    with pytest.raises(UsageError) as caught:
        validate_run(name)
    assert caught.value.do


@pytest.mark.parametrize("name", [*BAD, *COMPUTED_TAGS, "500", "0", "a/b"])
def test_bad_tags(name: str) -> None:
    with pytest.raises(UsageError):
        validate_tag(name)


@pytest.mark.parametrize("name", ["good", "v1.0", "500a", "Best"])
def test_good_tags(name: str) -> None:
    assert validate_tag(name) == name


@given(
    st.integers(0, 10**18 - 1),
    st.integers(0, 10**9 - 1),
    st.integers(0, 10**9 - 1),
    st.sampled_from(["full", "thin"]),
)
def test_a_checkpoint_is_read_back_from_its_name(step: int, number: int, sequence: int, kind: str) -> None:
    made = CheckpointId(step, AttemptId.new(number), sequence, kind, DIGEST)
    assert CheckpointId.parse(str(made)) == made
    assert CheckpointId.parse(f"{made}.manifest") == made
    assert AttemptId.parse(str(made.attempt)) == made.attempt


def test_only_one_spelling_names_a_checkpoint() -> None:
    good = str(CheckpointId(5, AttemptId(1, "00000000"), 1, "full", DIGEST))
    assert CheckpointId.parse(good) is not None
    for bad in (
        f"0{good}",
        good.replace("000001-0", "0000001-0", 1),
        good.upper(),
        good.replace("5", "\u0665", 1),
        good.replace("full", "half"),
        good[:-1],
        good + "0",
        good + ".json",
        good + "\n",
        "../" + good,
        "",
    ):
        assert CheckpointId.parse(bad) is None, bad
    for bad in (
        "",
        "1-00000000",
        "0000001-00000000",
        "000001-0000000",
        "000001-0000000g",
        "\u0660" * 5 + "\u0661-00000000",
    ):
        assert AttemptId.parse(bad) is None, bad


def test_checkpoints_sort_by_attempt_then_by_commit_never_by_step() -> None:
    early = CheckpointId(900, AttemptId(1, "ffffffff"), 9, "full", DIGEST)
    later = CheckpointId(100, AttemptId(2, "00000000"), 1, "full", DIGEST)
    latest = CheckpointId(50, AttemptId(2, "00000000"), 2, "full", DIGEST)
    assert sorted([latest, later, early], key=lambda c: c.order) == [early, later, latest]


@pytest.mark.parametrize(
    ("text", "run", "at"),
    [
        ("digits", "digits", "latest"),
        ("sweep/lr3@500", "sweep/lr3", 500),
        ("digits@best", "digits", "best"),
        ("digits@v1", "digits", "v1"),
        ("digits@0", "digits", 0),
    ],
)
def test_addresses(text: str, run: str, at: int | str) -> None:
    address = Address.parse(text)
    assert (address.run, address.at) == (run, at)
    assert Address.parse(str(address)) == address


@given(st.text() | st.from_regex("[a-z]+@[0-9\u00b2\u0663]*", fullmatch=True))
def test_an_address_is_read_or_refused(text: str) -> None:
    try:
        Address.parse(text)
    except UsageError:
        return
    validate_run(text.partition("@")[0])


@pytest.mark.parametrize("at", ["\u00b2", "\u0663", "9" * 5000, "-5", "", "a b"])
def test_a_bad_part_after_the_mark_is_refused(at: str) -> None:
    with pytest.raises(UsageError):
        parse_at(at)
