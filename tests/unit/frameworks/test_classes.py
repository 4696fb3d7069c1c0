"""Values come back as of the class they were, also where the script holds nothing yet."""

from __future__ import annotations

import copy
import enum
import sys
from collections import Counter, OrderedDict, defaultdict, deque, namedtuple
from pathlib import Path
from typing import Any

import pytest
import torch

import holdfast
from holdfast.domain.tree import Component
from holdfast.errors import MismatchError, UnsupportedError
from holdfast.frameworks import classes, walk

Pair = namedtuple("Pair", "left right")


class Color(enum.Enum):
    RED = 1
    BLUE = (2, 3)


class Bits(enum.IntFlag):
    A = 1
    B = 2


class Table(dict):
    def __init__(self, name: str) -> None:
        raise AssertionError("no code of the class may run")

    update = clear = __setitem__ = __init__


class Row(list):
    extend = append = None


class Names(set):
    pass


class Named(dict):
    """Holds more than its items."""

    def __init__(self, name: str = "", **items: Any) -> None:
        super().__init__(**items)
        self.name = name


def table(**items: Any) -> Table:
    new = dict.__new__(Table)
    for key, value in items.items():
        dict.__setitem__(new, key, value)
    return new


VALUES: dict[str, Any] = {
    "Counter": Counter("aab"),
    "OrderedDict": OrderedDict(b=1, a=2),
    "defaultdict": defaultdict(int, a=1),
    "defaultdict-none": defaultdict(None, a=1),
    "Pair": Pair(1, [Pair(2, 3)]),
    "Color": Color.RED,
    "Color-tuple": Color.BLUE,
    "Bits": Bits.A | Bits.B,
    "dict": table(a=[Color.RED]),
    "list": Row([1, Counter("b")]),
    "set": Names({1, 2}),
    "keys": {Color.RED: 1, (Color.BLUE, 1): 2, Pair(1, 2): 3},
    "elements": {Color.RED, Pair(1, Color.BLUE)},
    "frozenset": frozenset({Color.RED}),
    "deque": deque([Pair(1, 2), Color.RED]),
    "Counter-keys": Counter({Color.RED: 3}),
}


def classes_in(value: Any) -> Any:
    if isinstance(value, dict):
        return [(type(value), classes_in(k), classes_in(v)) for k, v in value.items()]
    if isinstance(value, set | frozenset):
        return type(value), sorted(repr(classes_in(v)) for v in value)
    return (type(value), *map(classes_in, value)) if isinstance(value, list | tuple | deque) else type(value)


@pytest.mark.parametrize("name", VALUES)
@pytest.mark.parametrize("shape", ["grown list", "grown dict", "tuple", "none", "same", "another"])
def test_a_class_comes_back_wherever_the_value_was(tmp_path: Path, name: str, shape: str) -> None:
    value = VALUES[name]
    saved, live = {
        "grown list": ([5, value], []),
        "grown dict": ({"k": value}, {}),
        "tuple": ((value,), ()),
        "none": (value, None),
        "same": ([value], [value]),
        "another": ({"k": value}, {"k": 7}),
    }[shape]
    if shape == "same":
        if name in ("dict", "list"):
            return  # a live one is filled by its own methods
        live = [copy.copy(value)]
    state = {"x": live}
    holdfast.save(tmp_path, {"x": saved}, step=1)
    holdfast.load(tmp_path, into=state)
    assert state["x"] == saved
    assert classes_in(state["x"]) == classes_in(saved)


def test_what_a_class_knows_beside_its_items_works_on(tmp_path: Path) -> None:
    ordered = OrderedDict(b=1, a=2)
    holdfast.save(tmp_path, {"x": [defaultdict(list), ordered, defaultdict(Counter)]}, step=1)
    state: dict[str, Any] = {"x": []}
    holdfast.load(tmp_path, into=state)
    lists, ordered, counters = state["x"]
    lists["new"].append(1)
    counters["new"]["a"] += 1
    ordered.move_to_end("b")
    assert list(ordered) == ["a", "b"]


def test_a_live_container_of_the_class_is_filled_in_place(tmp_path: Path) -> None:
    counts, lazy, named = Counter("a"), defaultdict(lambda: 7, a=1), Named("n", a=1)
    holdfast.save(tmp_path, {"x": [Counter("bb"), defaultdict(lambda: 7, b=2), Named("n", b=2)]}, step=1)
    state: dict[str, Any] = {"x": [counts, lazy, named]}
    holdfast.load(tmp_path, into=state)
    assert all(a is b for a, b in zip(state["x"], (counts, lazy, named), strict=True))
    assert (counts, lazy, named) == (Counter("bb"), {"b": 2}, {"b": 2})
    assert lazy["new"] == 7


def test_tensors_below_are_restored_in_place(tmp_path: Path) -> None:
    weight = torch.zeros(2)
    holdfast.save(tmp_path, {"x": OrderedDict(w=torch.ones(2), v=torch.ones(3))}, step=1)
    state: dict[str, Any] = {"x": {"w": weight}}
    holdfast.load(tmp_path, into=state)
    assert type(state["x"]) is OrderedDict
    assert state["x"]["w"] is weight
    assert weight.tolist() == [1, 1]
    assert state["x"]["v"].tolist() == [1, 1, 1]


@pytest.mark.parametrize(
    "value", [defaultdict(lambda: 7, a=1), Named("n", a=1)], ids=lambda v: type(v).__name__
)
def test_what_cannot_be_made_anew_is_refused_not_made_something_else(tmp_path: Path, value: Any) -> None:
    holdfast.save(tmp_path, {"x": [value]}, step=1)
    state: dict[str, Any] = {"x": []}
    with pytest.raises(MismatchError, match=r"x/0 \(checkpoint: .*, which only a live one of it can take"):
        holdfast.load(tmp_path, into=state)
    assert state == {"x": []}


def test_a_class_that_is_gone_is_named_and_one_that_was_renamed_found(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    holdfast.save(tmp_path, {"x": [Pair(1, 2)], "c": Color.RED}, step=1)
    monkeypatch.delattr(sys.modules[__name__], "Pair")
    monkeypatch.delattr(sys.modules[__name__], "Color")
    state: dict[str, Any] = {"x": [], "c": None}
    with pytest.raises(MismatchError, match=r":Pair, which is not defined here(.|\n)*:Color, which is not"):
        holdfast.load(tmp_path, into=state)
    other = enum.Enum("Colour", {"ROUGE": 1})
    state = {"x": [namedtuple("Two", "a b")(0, 0)], "c": other.ROUGE}
    holdfast.load(tmp_path, into=state)
    assert state["x"][0].a == 1
    assert state["c"] is other.ROUGE


def test_a_member_that_is_gone_is_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    holdfast.save(tmp_path, {"x": [Color.RED]}, step=1)
    monkeypatch.setattr(sys.modules[__name__], "Color", enum.Enum("Color", {"RED": 5}, module=__name__))
    with pytest.raises(
        MismatchError, match=r"x/0 \(checkpoint: Color of the value 1, live: it has no such member"
    ):
        holdfast.load(tmp_path, into={"x": []})


@pytest.mark.parametrize(
    "name",
    [
        "os:system",
        "os:_Environ",
        "nowhere:X",
        "",
        ":",
        "builtins:dict",
        "builtins:int",
        __name__,
        f"{__name__}:x.y",
    ],
)
def test_only_classes_of_these_kinds_are_ever_made(name: str) -> None:
    load = walk.LoadPlan({}, {})
    for kind in (classes.MADE, classes.AWAITED):
        load.value(Component(kind, (name, {"a": 1})), None, "x")
    assert len(load.mismatches) == 2


@pytest.mark.parametrize(
    "state",
    [None, (), ("a:b",), (1, {}), ("collections:defaultdict", {}, "eval"), ("collections:Counter", {}, 1, 2)],
)
def test_a_damaged_one_is_told(state: Any) -> None:
    load = walk.LoadPlan({}, {})
    damaged = Component(classes.MADE, state)
    load.value(damaged, None, "x")
    assert len(load.mismatches) == 1
    load.value(damaged, torch.Generator(), "x")
    assert len(load.mismatches) == 2
    if state is None or state == ():
        assert load.value({damaged: 1, None: 2}, None, "x") == {None: 2}
        assert len(load.mismatches) == 3


def test_a_key_that_cannot_be_hashed_as_kept_is_refused_with_its_path() -> None:
    odd = enum.Enum("Odd", {"A": [1]})
    with pytest.raises(UnsupportedError, match=r"^x/deep holds .*, whose value cannot be hashed"):
        walk.capture({"x": {"deep": {odd.A: 1}}})


def test_the_dict_that_an_object_gives_keeps_its_class(tmp_path: Path) -> None:
    class Meter:
        def __init__(self) -> None:
            self.state: Any = defaultdict(lambda: 0)

        def state_dict(self) -> Any:
            return self.state

        def load_state_dict(self, state: Any) -> None:
            self.state = state

    old, new = Meter(), Meter()
    old.state["a"] = Counter("a")
    holdfast.save(tmp_path, {"m": old}, step=1)
    holdfast.load(tmp_path, into={"m": new})
    assert new.state == {"a": Counter("a")}
    assert type(new.state["a"]) is Counter
    assert new.state["missing"] == 0


def test_read_by_itself_it_is_plain(tmp_path: Path) -> None:
    holdfast.save(tmp_path, {"x": [Counter("a"), {Color.RED: Pair(1, 2)}]}, step=1)
    assert holdfast.open(tmp_path)["main"]["latest"].load() == {"x": [{"a": 1}, {1: (1, 2)}]}
