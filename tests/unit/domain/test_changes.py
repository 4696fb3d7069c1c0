from __future__ import annotations

import argparse
import dataclasses
import enum
import math
import types
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from holdfast.domain import tree
from holdfast.domain.changes import (
    MISSING,
    Change,
    compare_environment,
    compare_given,
    decide_changes,
    flatten_config,
)
from holdfast.errors import ChangedError, UsageError

names = st.text(st.characters(exclude_characters="."), max_size=5)
plain = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text() | st.binary(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(names, inner, max_size=3),
    max_leaves=8,
)


@given(st.dictionaries(names, plain, max_size=4))
def test_what_was_recorded_equals_itself_after_a_round_trip(config: dict[str, Any]) -> None:
    flat = flatten_config(config)
    back = tree.decode(msgspec.msgpack.decode(msgspec.msgpack.encode(tree.encode(flat))))
    assert compare_given(back, flatten_config(config)) == []


@given(
    st.dictionaries(st.sampled_from("abcd"), st.integers(0, 2)),
    st.dictionaries(st.sampled_from("abcd"), st.integers(0, 2)),
)
def test_changes_lead_from_one_to_the_other(old: dict[str, int], new: dict[str, int]) -> None:
    patched = dict(old)
    for change in compare_given(old, new):
        assert change.recorded == old.get(change.name, MISSING)
        if change.given is MISSING:
            del patched[change.name]
        else:
            patched[change.name] = change.given
    assert patched == new


@pytest.mark.parametrize(
    ("old", "new"),
    [
        (1, 1.0),
        (math.nan, math.nan),
        (0.0, -0.0),
        ((0.9, 0.999), [0.9, 0.999]),
        ({"a": [math.nan]}, {"a": (math.nan,)}),
    ],
)
def test_equal_enough(old: object, new: object) -> None:
    assert compare_given({"x": old}, {"x": new}) == []


@pytest.mark.parametrize(
    ("old", "new"),
    [
        (0.1, math.nextafter(0.1, 1)),
        (math.nan, 0.0),
        ("1", 1),
        (None, 0),
        (None, MISSING),
        ([1], [1, 2]),
        ({"a": 1}, {"b": 1}),
        ("a", b"a"),
    ],
)
def test_different(old: object, new: object) -> None:
    assert compare_given({"x": old}, {"x": new}) == [Change("x", old, new)]


class Color(enum.Enum):
    RED = 1


@dataclasses.dataclass
class Model:
    width: int = 8
    path: Path = Path("a/b")


def test_flatten_config_of_everything_people_put_there() -> None:
    config = argparse.Namespace(
        lr=0.1,
        model=Model(),
        more=types.SimpleNamespace(color=Color.RED, empty={}),
        layers=[1, (2, 3), {"size": 4}],
        seen={"b", "a"},
        activation=math.tanh,
        cls=Model,
        scalar=np.float32(0.5),
        dtype=np.dtype("float32"),
        nested={"deep": {"x": None, 3: True}},
    )
    assert flatten_config(config) == {
        "lr": 0.1,
        "model.width": 8,
        "model.path": "a/b",
        "more.color": "Color.RED",
        "more.empty": {},
        "layers": [1, [2, 3], {"size": 4}],
        "seen": ["a", "b"],
        "activation": "math.tanh",
        "cls": f"{__name__}.Model",
        "scalar": 0.5,
        "dtype": "dtype('float32')",
        "nested.deep.x": None,
        "nested.deep.3": True,
    }
    assert flatten_config(None) == {}
    assert flatten_config(Model()) == {"width": 8, "path": "a/b"}


@pytest.mark.parametrize("value", [object(), [object()], np.zeros(5000), "x".join, iter([])])
def test_an_entry_that_reads_differently_next_time_is_refused_by_name(value: object) -> None:
    with pytest.raises(UsageError, match=r"'data\.bad"):
        flatten_config({"data": {"bad": value}})


def test_a_name_that_comes_twice_is_refused() -> None:
    with pytest.raises(UsageError, match=r"'a\.b' twice"):
        flatten_config({"a.b": 1, "a": {"b": 2}})


@pytest.mark.parametrize("config", [3, "lr=1", [("lr", 1)], Model])
def test_what_is_no_config_is_refused(config: object) -> None:
    with pytest.raises(UsageError, match="dataclass"):
        flatten_config(config)


CHANGES = [
    Change("optimizer.lr", 0.001, 0.01),
    Change("config.width", 8, MISSING),
    Change("config.depth", MISSING, 2),
]


def test_refuse_lists_every_change_and_the_way_out() -> None:
    with pytest.raises(ChangedError) as caught:
        decide_changes(CHANGES, "refuse")
    assert str(caught.value).splitlines()[1:4] == [
        "  optimizer.lr: 0.001 → 0.01",
        "  config.width: 8 → (nothing)",
        "  config.depth: (nothing) → 2",
    ]
    assert 'changed="apply"' in str(caught.value)
    assert 'changed="keep"' in str(caught.value)


def test_keep_and_apply() -> None:
    kept, applied = decide_changes(CHANGES, "keep"), decide_changes(CHANGES, "apply")
    assert kept.apply == {}
    assert applied.apply == {"optimizer.lr": 0.01, "config.depth": 2}
    for resolution in (kept, applied):
        assert resolution.warning is not None
        assert "  optimizer.lr: 0.001 → 0.01" in resolution.warning


@pytest.mark.parametrize("policy", ["refuse", "keep", "apply"])
def test_no_changes_need_no_words(policy: Any) -> None:
    assert decide_changes([], policy).warning is None


def test_an_unknown_policy_is_refused_even_without_changes() -> None:
    with pytest.raises(UsageError, match="maybe"):
        decide_changes([], "maybe")  # type: ignore[arg-type]


ENVIRONMENT = {
    "versions": {"torch": "2.13.0", "python": "3.11.4"},
    "devices": {"torch": "cpu"},
    "flags": {"torch.num_threads": "1"},
    "world": {"number of ranks": "1"},
    "code": {"git commit": "abc"},
}


def changed(section: str, **values: str) -> dict[str, dict[str, str]]:
    return {**ENVIRONMENT, section: {**ENVIRONMENT[section], **values}}


def test_the_same_environment_says_nothing() -> None:
    same = compare_environment(ENVIRONMENT, ENVIRONMENT)
    assert (same.inexact, same.noteworthy, same.warning) == ((), (), None)


@pytest.mark.parametrize(
    ("now", "sentence"),
    [
        (changed("versions", torch="2.14.0"), "The version of torch is 2.14.0 now, was 2.13.0."),
        (changed("versions", python="3.12.4"), "The version of python is 3.12.4 now, was 3.11.4."),
        (changed("devices", torch="cuda"), "The device of torch is cuda now, was cpu."),
        (changed("flags", **{"torch.num_threads": "2"}), "torch.num_threads is 2 now, was 1."),
        (changed("world", **{"number of ranks": "2"}), "The number of ranks is 2 now, was 1."),
    ],
)
def test_what_cannot_be_exact_any_more_is_one_sentence(now: Any, sentence: str) -> None:
    differences = compare_environment(ENVIRONMENT, now)
    assert differences.inexact == (sentence,)
    assert differences.warning is not None
    assert differences.warning.splitlines()[1:] == [f"  {sentence}"]


@pytest.mark.parametrize(
    ("now", "sentence"),
    [
        (changed("code", **{"git commit": "def"}), "The git commit is def now, was abc."),
        (changed("versions", python="3.11.9"), "The version of python is 3.11.9 now, was 3.11.4."),
        (changed("versions", paddle="3.3"), "The version of paddle is 3.3 now, and was not recorded."),
        ({**ENVIRONMENT, "devices": {}}, "The device of torch is not known now, was cpu."),
    ],
)
def test_what_is_merely_noteworthy_does_not_warn(now: Any, sentence: str) -> None:
    differences = compare_environment(ENVIRONMENT, now)
    assert (differences.inexact, differences.noteworthy) == ((), (sentence,))
    assert differences.warning is None


def test_a_section_of_a_later_version_is_noted_plainly() -> None:
    assert compare_environment({"moon": {"phase": "new"}}, {"moon": {"phase": "full"}}).noteworthy == (
        "phase is full now, was new.",
    )
