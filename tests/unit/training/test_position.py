"""Passes over plain Python iterables, and what a pass says of itself."""

import itertools
import random
from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest

from cut_passes import Cuts, through_bytes
from holdfast.errors import UnsupportedError
from holdfast.frameworks.data import held, plain
from holdfast.training.position import BatchPass


def begin(seed: int) -> None:
    np.random.seed(seed)
    random.seed(seed)


def noise() -> list[float]:
    return [float(np.random.rand()), random.random()]


check = Cuts(begin, noise, lambda batch: repr(batch).encode())


class Counts:
    """An iterable with a state; yields a random number with each."""

    def __init__(self) -> None:
        self.place = 0
        self.turn = 0

    def __len__(self) -> int:
        return 5

    def __iter__(self) -> Iterator[Any]:
        while self.place < 5:
            self.place += 1
            yield self.place, self.turn, random.random()
        self.place, self.turn = 0, self.turn + 1

    def state_dict(self) -> dict[str, Any]:
        return {"place": self.place, "turn": np.int64(self.turn), "table": np.arange(3)}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        assert state["table"].tolist() == [0, 1, 2]
        self.place, self.turn = state["place"], int(state["turn"])


class Ticker:
    """An iterator with a state, without end."""

    def __init__(self) -> None:
        self.now = 0

    def __iter__(self) -> "Ticker":
        return self

    def __next__(self) -> int:
        self.now += 1
        return self.now

    def state_dict(self) -> dict[str, int]:
        return {"now": self.now}

    def load_state_dict(self, state: dict[str, int]) -> None:
        self.now = state["now"]


@pytest.mark.parametrize(
    "make", [lambda: list("abcde"), lambda: range(3), lambda: np.arange(4), Counts, list]
)
def test_cut_anywhere(make: Any) -> None:
    check(make)


def test_iterator_without_end() -> None:
    first = BatchPass(Ticker(), seed=1, number=0)
    assert list(itertools.islice(first, 3)) == [1, 2, 3]
    assert first.remaining() is None
    again = BatchPass(Ticker(), seed=1, number=0, saved=through_bytes(first.state()))
    assert next(again) == 4
    assert (again.delivered, again.samples) == (4, 4)


def test_what_a_pass_says_of_itself() -> None:
    current = BatchPass([np.zeros((4, 2)), np.zeros((3, 2))], seed=1, number=7)
    assert (current.delivered, current.samples, current.remaining(), current.exhausted) == (0, 0, 2, False)
    next(current)
    assert (current.delivered, current.samples, current.remaining(), current.exhausted) == (1, 4, 1, False)
    assert len(list(current)) == 1
    assert (current.delivered, current.samples, current.remaining(), current.exhausted) == (2, 7, 0, True)
    state = current.state()
    assert {k: state[k] for k in ("number", "delivered", "samples", "exhausted", "total")} == {
        "number": 7,
        "delivered": 2,
        "samples": 7,
        "exhausted": True,
        "total": 2,
    }


def test_changed_length_is_reported() -> None:
    first = BatchPass(range(5), seed=1, number=0)
    next(first)
    again = BatchPass(range(6), seed=1, number=0, saved=first.state())
    assert list(again) == [1, 2, 3, 4, 5]
    assert again.inexact == "length was 5, now 6"


def test_another_kind_of_loader_is_refused() -> None:
    saved = BatchPass(range(5), seed=1, number=0).state()
    with pytest.raises(UnsupportedError, match="another kind of loader"):
        next(BatchPass(Counts(), seed=1, number=0, saved=saved))


@pytest.mark.parametrize(
    "value", [iter([1]), (i for i in range(3)), {1, 2}, {"a": 1}, 5, zip([1], [2], strict=True)]
)
def test_what_cannot_be_positioned_is_refused_with_the_way_out(value: Any) -> None:
    with pytest.raises(UnsupportedError, match=r"cannot be kept.*Pass the DataLoader itself .*, a sequence"):
        BatchPass(value, seed=1, number=0)


@pytest.mark.parametrize(
    ("batch", "count"),
    [
        (np.zeros((3, 2)), 3),
        ({"x": np.zeros(5)}, 5),
        ([np.zeros(2), 1], 2),
        (np.float32(1), 1),
        ("text", 1),
        ([], 1),
    ],
)
def test_samples_of_a_batch(batch: Any, count: int) -> None:
    assert plain.count(batch) == count


def generators() -> list[Any]:
    return [
        random.Random(1),
        np.random.RandomState(1),
        *(np.random.Generator(kind(1)) for kind in (np.random.PCG64, np.random.MT19937, np.random.Philox)),
        np.random.Generator(np.random.SFC64(1)),
    ]


@pytest.mark.parametrize("kind", range(6))
def test_generators_go_back_exactly(kind: int) -> None:
    one, other = generators()[kind], generators()[kind]
    draw = getattr(one, "standard_normal", None) or one.gauss
    draw()
    held.write(other, through_bytes(held.read(one)))
    assert [draw() for _ in range(3)] == [
        (getattr(other, "standard_normal", None) or other.gauss)() for _ in range(3)
    ]
    held.reseed(one, b"x" * 32)
    held.reseed(other, b"x" * 32)
    assert through_bytes(held.read(one)) == through_bytes(held.read(other))


class Sampler:
    def __init__(self) -> None:
        self.epoch = 0
        self.size = 4
        self.parts = [{"own": random.Random(1)}]


def moved(epoch: int = 0) -> tuple[Sampler, held.Held]:
    sampler = Sampler()
    sampler.epoch = epoch
    return sampler, held.Held(sampler)


def test_what_moves_is_carried_to_the_next_pass() -> None:
    sampler, watch = moved()
    watch.begin()
    sampler.epoch += 1
    sampler.parts[0]["own"].random()
    saved = through_bytes(watch.state())
    assert set(saved) == {":epoch", "parts.0.own"}
    fresh, again = moved()
    again.carry(saved)
    assert fresh.epoch == 1
    assert fresh.parts[0]["own"].random() == sampler.parts[0]["own"].random()


def test_what_the_script_sets_itself_is_left_alone() -> None:
    sampler, watch = moved()
    watch.begin()
    sampler.epoch = 1
    saved = through_bytes(watch.state())
    fresh, again = moved(epoch=5)  # set_epoch(5), before the pass
    again.carry(saved)
    assert fresh.epoch == 5


def test_what_the_script_was_seen_to_set_is_left_alone() -> None:
    sampler, watch = moved()
    watch.begin()
    watch.end()
    sampler.epoch = 1  # between passes
    watch.begin()
    fresh, again = moved()  # and set_epoch(0) now
    again.carry(through_bytes(watch.state()))
    assert fresh.epoch == 0


class Ordered:
    """Keeps its place and the epoch, which the script sets."""

    def __init__(self) -> None:
        self.epoch, self.place, self.turn = 0, 0, 0

    def set_epoch(self, epoch: int) -> None:
        self.epoch = epoch

    def __iter__(self) -> Iterator[Any]:
        while self.place < 3:
            self.place += 1
            yield self.place, self.epoch, self.turn
        self.place, self.turn = 0, self.turn + 1

    def state_dict(self) -> dict[str, Any]:
        return {"epoch": self.epoch, "place": self.place, "turn": self.turn}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self.epoch, self.place, self.turn = state["epoch"], state["place"], state["turn"]


def test_an_epoch_that_the_script_sets_is_not_taken_from_the_pass_before() -> None:
    check(Ordered, before=lambda data, number: data.set_epoch(number))


def test_an_epoch_that_counts_on_by_itself_goes_on() -> None:
    check(Ordered)


@pytest.mark.parametrize("kind", [int, lambda i: (np.arange(3) + i, i)])
def test_a_list_in_another_order_is_told_of(kind: Any) -> None:
    items = [kind(i) for i in range(5)]
    first = BatchPass(items, seed=1, number=0)
    next(first)
    saved = through_bytes(first.state())
    same = BatchPass([kind(i) for i in range(5)], seed=1, number=0, saved=saved)
    assert len(list(same)) == 4
    assert same.inexact is None
    again = BatchPass(items[::-1], seed=1, number=0, saved=saved)
    next(again)
    assert "the list is in another order" in str(again.inexact)


def test_a_list_of_what_cannot_be_told_apart_goes_on() -> None:
    items = [object(), object()]
    first = BatchPass(items, seed=1, number=0)
    next(first)
    again = BatchPass([object(), object()], seed=1, number=0, saved=through_bytes(first.state()))
    assert len(list(again)) == 1
    assert again.inexact is None
