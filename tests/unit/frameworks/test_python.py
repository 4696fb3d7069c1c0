from __future__ import annotations

import dataclasses
import enum
import itertools
import platform
import random
from collections import deque
from fractions import Fraction
from typing import Any, NamedTuple

import msgspec
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from holdfast.domain import tree
from holdfast.domain.tensors import TensorSpec
from holdfast.domain.tree import Component
from holdfast.errors import DamagedError, MismatchError, UnsupportedError
from holdfast.frameworks import walk
from holdfast.frameworks.python import FRAMEWORK

Taken = tuple[Any, dict[str, TensorSpec], dict[str, bytes]]


def saved(state: dict[str, Any]) -> Taken:
    """What a manifest and its packs would hold of a state."""
    captured = walk.capture(state)
    node = msgspec.msgpack.decode(msgspec.msgpack.encode(tree.encode(captured.tree)))
    sources = captured.tensors
    return (
        tree.decode(node, state),
        {name: source.spec for name, source in sources.items()},
        {name: bytes(source.read()) for name, source in sources.items()},
    )


def load(state: dict[str, Any], taken: Taken, *, strict: bool = True) -> list[str]:
    values, specs, data = taken
    plan = walk.plan(state, values, specs)
    skipped = plan.raise_differences("The checkpoint", strict=strict)
    for name, target in plan.reads:
        target.buffer()[:] = np.frombuffer(data[name], np.uint8)
        target.commit()
    plan.finish()
    return skipped


class Phase(enum.Enum):
    WARM = "warm"
    HOT = "hot"


class Point(NamedTuple):
    x: int
    y: int


ORIGIN = Point(0, 0)


@dataclasses.dataclass
class Progress:
    step: int = 0
    phase: Phase = Phase.WARM
    at: Point = ORIGIN
    weights: np.ndarray = dataclasses.field(default_factory=lambda: np.zeros(3))
    history: list[float] = dataclasses.field(default_factory=list)
    rng: random.Random = dataclasses.field(default_factory=lambda: random.Random(0))
    derived: int = dataclasses.field(init=False, default=7)


@dataclasses.dataclass(frozen=True)
class Frozen:
    name: str
    inner: Progress
    best: float = 9.9


@dataclasses.dataclass(frozen=True, slots=True)
class Slotted:
    value: int
    nested: Any = None


def test_a_dataclass_is_restored_in_place_field_by_field() -> None:
    old = Progress(5, Phase.HOT, Point(1, 2), np.arange(3.0), [0.5, 0.25])
    old.derived = 8
    old.rng.random()
    live, taken = Progress(), saved({"p": old})
    weights, history, rng = live.weights, live.history, live.rng
    state = {"p": live}
    load(state, taken)
    assert state["p"] is live
    assert (live.step, live.phase, live.at, live.derived) == (5, Phase.HOT, Point(1, 2), 8)
    assert type(live.at) is Point
    assert live.weights is weights
    assert weights.tolist() == [0, 1, 2]
    assert live.history is history
    assert history == [0.5, 0.25]
    assert live.rng is rng
    assert rng.random() == old.rng.random()


def test_a_frozen_dataclass_is_rebuilt_and_the_old_one_untouched() -> None:
    taken = saved({"f": Frozen("new", Progress(3), 0.1)})
    live = Frozen("old", Progress())
    state = {"f": live}
    load(state, taken)
    assert (state["f"].name, state["f"].best, live.name, live.best) == ("new", 0.1, "old", 9.9)
    assert state["f"].inner is live.inner
    assert live.inner.step == 3


def test_frozen_ones_within_containers_and_one_another_are_rebuilt() -> None:
    taken = saved({"all": [Slotted(1), {"k": Slotted(2, Slotted(3))}], "p": Progress(at=Point(4, 4))})
    live: dict[str, Any] = {"all": [Slotted(0), {"k": Slotted(0, Slotted(0))}], "p": Progress()}
    load(live, taken)
    assert live["all"] == [Slotted(1), {"k": Slotted(2, Slotted(3))}]


def test_nothing_changes_when_a_dataclass_does_not_fit_and_everything_is_listed() -> None:
    @dataclasses.dataclass
    class Before:
        step: int = 5
        gone: int = 1
        weights: Any = None

    @dataclasses.dataclass
    class After:
        step: int = 0
        added: int = 2
        weights: Any = None

    taken = saved({"p": Before(weights=np.ones(2))})
    live = After(weights=np.zeros(3))
    with pytest.raises(MismatchError) as caught:
        load({"p": live}, taken)
    assert caught.value.missing == ("p/added",)
    assert caught.value.unexpected == ("p/gone",)
    assert len(caught.value.mismatched) == 1
    assert (live.step, live.weights.tolist()) == (0, [0, 0, 0])
    assert len(load({"p": live}, taken, strict=False)) == 3
    assert (live.step, live.added) == (5, 2)


def test_what_the_script_gives_to_objects_within_a_dataclass_is_seen() -> None:
    torch = pytest.importorskip("torch")
    torch.set_num_threads(1)

    @dataclasses.dataclass
    class Trainer:
        optimizer: Any

    weight = torch.nn.Parameter(torch.zeros(1))
    state = {"trainer": Trainer(torch.optim.SGD([weight], lr=0.5))}
    given_values = walk.given(state)
    name = next(name for name, value in given_values.items() if value == 0.5)
    walk.apply_given(state, {name: 0.25})
    assert state["trainer"].optimizer.param_groups[0]["lr"] == 0.25


class Counter:
    """Keeps an array, a generator, an enum and plain values."""

    def __init__(self, seed: int) -> None:
        self.array = np.full(2, seed)
        self.rng = random.Random(seed)
        self.log: list[int] = [seed]
        self.phase = Phase.WARM

    def state_dict(self) -> dict[str, Any]:
        return {
            "array": self.array,
            "rng": self.rng,
            "log": self.log,
            "phase": self.phase,
            "pair": (1, self.log),
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        assert state.keys() == self.state_dict().keys()
        self.array, self.rng, self.log = state["array"], state["rng"], state["log"]
        self.phase = state["phase"]


class PaddleLike:
    def __init__(self) -> None:
        self.n = 0

    def state_dict(self) -> dict[str, int]:
        return {"n": self.n}

    def set_state_dict(self, state: dict[str, int]) -> None:
        self.n = state["n"]


def test_an_object_with_a_state_dict_gets_the_full_saved_value() -> None:
    old = Counter(5)
    old.log += [6, 7]
    old.phase = Phase.HOT
    old.array = np.arange(4)
    taken = saved({"c": old})
    live = Counter(1)
    array, log, rng = live.array, live.log, live.rng
    load({"c": live}, taken)
    assert live.array.tolist() == [0, 1, 2, 3]
    assert live.array is not array
    assert live.log == [5, 6, 7]
    assert log == [1]
    assert live.phase is Phase.HOT
    assert live.rng is rng
    assert rng.random() == old.rng.random()


def test_set_state_dict_will_do() -> None:
    old, live = PaddleLike(), PaddleLike()
    old.n = 4
    load({"x": live}, saved({"x": old}))
    assert live.n == 4


def test_a_deque_is_filled_in_place_with_what_it_held() -> None:
    memory: deque[Any] = deque([(np.arange(3.0), 1, None), (np.zeros((2, 2)), 2, "end")], maxlen=5)
    nested = {"returns": [deque([1.5]), deque()]}
    taken = saved({"memory": memory, "nested": nested})
    live: deque[Any] = deque([0, 0, 0], maxlen=5)
    state: dict[str, Any] = {"memory": live, "nested": {"returns": []}}
    load(state, taken)
    assert state["memory"] is live
    assert live.maxlen == 5
    assert [item[1:] for item in live] == [(1, None), (2, "end")]
    np.testing.assert_array_equal(live[1][0], np.zeros((2, 2)))
    assert state["nested"]["returns"] == [deque([1.5]), deque()]


def test_a_deque_of_another_length_or_of_nonsense_is_refused_before_anything_is_touched() -> None:
    live = deque([0], maxlen=2)
    with pytest.raises(MismatchError, match="maxlen=3, live: maxlen=2"):
        load({"d": live}, saved({"d": deque([1], maxlen=3)}))
    for state in ({"maxlen": 2, "items": 5}, {"maxlen": 2}, {}):
        with pytest.raises(MismatchError, match="cannot be read"):
            load({"d": live}, ({"d": Component("python.deque", state)}, {}, {}))
    with pytest.raises(MismatchError, match="cannot be read"):
        load({"d": None}, ({"d": Component("python.deque", {"maxlen": "x", "items": []})}, {}, {}))
    assert live == deque([0])


def test_an_object_gets_a_deque_of_its_own_state_anew() -> None:
    class Replay:
        def __init__(self, *items: int) -> None:
            self.items = deque(items, maxlen=9)

        def state_dict(self) -> dict[str, Any]:
            return {"items": self.items}

        def load_state_dict(self, state: dict[str, Any]) -> None:
            self.items.clear()
            self.items.extend(state["items"])

    live = Replay()
    load({"replay": live}, saved({"replay": Replay(1, 2)}))
    assert live.items == deque([1, 2])


def test_a_state_of_its_own_wins_over_fields() -> None:
    @dataclasses.dataclass
    class Both:
        n: int = 0

        def state_dict(self) -> dict[str, int]:
            return {"twice": 2 * self.n}

        def load_state_dict(self, state: dict[str, int]) -> None:
            self.n = state["twice"] // 2

    live = Both()
    load({"b": live}, saved({"b": Both(3)}))
    assert live.n == 3


def test_nothing_is_given_back_when_anything_does_not_fit() -> None:
    live = Counter(1)
    taken = saved({"c": Counter(5), "x": np.ones(1)})
    with pytest.raises(MismatchError):
        load({"c": live, "x": np.ones(2)}, taken)
    assert live.log == [1]


def test_another_kind_of_object_is_a_mismatch() -> None:
    taken = saved({"x": Progress()})
    for live in (Counter(1), random.Random(1), np.zeros(1)):
        with pytest.raises(MismatchError, match=r"python\.dataclass"):
            load({"x": live}, taken)
    with pytest.raises(MismatchError, match=r"python\.state_dict"):
        load({"x": Counter(1)}, saved({"x": {"log": 1}}))


@given(st.integers(), st.integers(0, 700), st.booleans(), st.booleans())
def test_random_goes_on_where_it_was(seed: int, draws: int, gauss: bool, fresh: bool) -> None:
    value = random.Random(seed)
    for _ in range(draws):
        value.random()
    if gauss:
        value.gauss(0, 1)
    live = random.Random(1)
    state: dict[str, Any] = {"r": None if fresh else live}
    load(state, saved({"r": value}))
    assert fresh or state["r"] is live
    assert [state["r"].gauss(0, 1), state["r"].random()] == [value.gauss(0, 1), value.random()]


def test_a_system_random_is_refused_by_name() -> None:
    with pytest.raises(UnsupportedError, match="a/r is a SystemRandom"):
        walk.capture({"a": {"r": random.SystemRandom()}})


@pytest.mark.parametrize(
    "state",
    [None, (), (3, (), None), (3, (1,) * 624 + (999,), None), (3, (0,) * 625, "x"), (3, (-1,) * 625, None)],
)
def test_a_forged_state_of_random_is_a_mismatch(state: Any) -> None:
    with pytest.raises(MismatchError):
        load({"r": random.Random(1)}, ({"r": Component("python.random", state)}, {}, {}))
    with pytest.raises(DamagedError):
        FRAMEWORK.set_rng_state(state)


def test_the_global_generator_is_captured_without_a_draw_and_put_back() -> None:
    before = random.getstate()
    try:
        random.seed(5)
        random.gauss(0, 1)
        node = msgspec.msgpack.decode(msgspec.msgpack.encode(tree.encode(FRAMEWORK.rng_state())))
        expected = [random.gauss(0, 1), random.random()]
        random.seed(6)
        FRAMEWORK.set_rng_state(tree.decode(node))
        assert [random.gauss(0, 1), random.random()] == expected
    finally:
        random.setstate(before)


@pytest.mark.parametrize("bad", [itertools.count(), iter([1]), (i for i in ()), open, object()])
def test_iterators_without_a_state_are_refused_by_their_path(bad: object) -> None:
    with pytest.raises(UnsupportedError, match=r"state\.loop\.it is a "):
        tree.encode(walk.capture({"loop": {"it": bad}}).tree)


@pytest.mark.parametrize("value", [Progress, Counter, {"state_dict": 1}, 3, "x"])
def test_classes_and_plain_values_are_no_objects_with_state(value: object) -> None:
    assert FRAMEWORK.component(value) is None


def test_tensors_of_plain_python_are_damage() -> None:
    with pytest.raises(DamagedError):
        FRAMEWORK.new_tensor(TensorSpec("uint8", (1,)), "cpu")


@pytest.mark.parametrize(
    ("value", "number"), [(2, 2.0), (0.5, 0.5), (True, 1.0), (Fraction(1, 4), 0.25), ("1", None), (1j, None)]
)
def test_scalar(value: object, number: float | None) -> None:
    assert FRAMEWORK.scalar(value) == number


def test_the_environment_names_python_and_the_machine() -> None:
    environment = FRAMEWORK.environment()
    assert environment.versions == {"python": platform.python_version()}
    assert environment.devices == {"python": platform.machine()}
