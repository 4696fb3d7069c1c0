"""Which tensors a save leaves out: those that nobody wrote to since a save that is durable."""

from __future__ import annotations

import sys
from collections.abc import Collection, Iterator

import numpy as np
import numpy.typing as npt
import pytest

from holdfast.domain.tensors import TensorSource, TensorSpec
from holdfast.frameworks.numpy import NumpyFramework
from holdfast.node.written import Watch, address_of
from holdfast.training import unwritten
from holdfast.training.unwritten import LEAST_BYTES, Unchanged, Unwritten

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="asked of Linux")
Array = npt.NDArray[np.uint8]


@pytest.fixture(autouse=True)
def known_to_the_kernel() -> None:
    watch = Watch.open()
    if watch is None:
        pytest.skip("this kernel is older than 6.7, or forbids userfaultfd")
    watch.close()


class Saves:
    """Saves one after the other, as a trainer makes them."""

    def __init__(self, mode: str = "on") -> None:
        self.unwritten = Unwritten(mode)
        self.sequence = 0

    def save(self, *, stepped: Collection[int] = (), durable: bool = True, **arrays: Array) -> Unchanged:
        self.sequence += 1
        sources = {name: _source(array) for name, array in arrays.items()}
        found = self.unwritten.among(sources, self.sequence, stepped)
        if durable:
            self.unwritten.durable(self.sequence)
        return found


@pytest.fixture
def saves() -> Iterator[Saves]:
    made = Saves()
    yield made
    made.unwritten.close()


def _source(array: Array) -> TensorSource:
    return NumpyFramework().source(array, "there")[0]


def large() -> Array:
    return np.full(LEAST_BYTES + 10, 3, np.uint8)


def test_what_nobody_writes_to_is_left_out_from_the_second_save_on(saves: Saves) -> None:
    base, small = large(), np.zeros(100, np.uint8)
    assert saves.save(base=base, small=small) == Unchanged()
    for _ in range(3):
        assert saves.save(base=base, small=small).left_out == {"base"}


def test_a_save_that_is_not_durable_is_no_reason_to_leave_anything_out(saves: Saves) -> None:
    base = large()
    for _ in range(3):
        assert saves.save(base=base, durable=False) == Unchanged()
    saves.unwritten.durable(1)
    assert saves.save(base=base).left_out == {"base"}


def test_what_was_written_to_is_never_left_out_again(saves: Saves) -> None:
    base, other = large(), large()
    saves.save(base=base, other=other)
    base[500_000] += 1
    for _ in range(3):
        assert saves.save(base=base, other=other).left_out == {"other"}


def test_what_an_optimizer_changes_is_not_even_watched(saves: Saves) -> None:
    weights = large()
    stepped = {address_of(weights)}
    saves.save(weights=weights, stepped=stepped)
    assert saves.save(weights=weights, stepped=stepped) == Unchanged()
    assert saves.save(weights=weights) == Unchanged(), "frozen from now on: this save copies it"
    assert saves.save(weights=weights).left_out == {"weights"}


def test_another_tensor_another_name_and_another_view_are_copied(saves: Saves) -> None:
    base = large()
    saves.save(base=base)
    assert saves.save(base=large()) == Unchanged()
    saves.save(base=base)
    assert saves.save(base=base, tied=base).left_out == {"base"}, "the parent has no other name for it"
    assert saves.save(base=base.view(np.int8)) == Unchanged(), "nor another dtype"


def test_a_name_that_meanwhile_meant_another_tensor_is_no_longer_known(saves: Saves) -> None:
    one, other = large(), large()
    saves.save(first=one, second=other)
    assert saves.save(first=other, second=one) == Unchanged()
    assert saves.save(first=one, second=other) == Unchanged(), "the parent has them the other way round"
    assert saves.save(first=one, second=other).left_out == {"first", "second"}


def test_a_tensor_with_another_name_more_is_left_out_by_both_later(saves: Saves) -> None:
    base = large()
    saves.save(base=base)
    assert saves.save(base=base, tied=base).left_out == {"base"}
    assert saves.save(base=base, tied=base).left_out == {"base", "tied"}


def test_what_is_read_through_a_copy_is_copied(saves: Saves) -> None:
    base = np.full((2000, 2000), 3, np.uint8)[:, ::2]
    saves.save(base=base)
    assert saves.save(base=base) == Unchanged()


def test_tied_tensors_are_left_out_together(saves: Saves) -> None:
    base = large()
    saves.save(base=base, tied=base)
    assert saves.save(base=base, tied=base).left_out == {"base", "tied"}


def test_after_a_failure_all_is_copied_once(saves: Saves) -> None:
    base = large()
    saves.save(base=base)
    saves.unwritten.forget()
    assert saves.save(base=base) == Unchanged()
    assert saves.save(base=base).left_out == {"base"}


def test_now_and_then_it_is_compared(saves: Saves, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(unwritten, "SAVES_TO_COMPARISON", 3)
    base = large()
    found = [saves.save(base=base) for _ in range(8)]
    base_alone = frozenset({"base"})
    out, compared = Unchanged(left_out=base_alone, since=1), Unchanged(compared=base_alone, since=1)
    assert found == [Unchanged(), out, out, compared, out, out, compared, out]


def test_it_can_be_compared_at_every_save_and_be_turned_off() -> None:
    base = large()
    checking = Saves("check")
    checking.save(base=base)
    assert checking.save(base=base) == Unchanged(compared=frozenset({"base"}), since=1)
    checking.unwritten.close()
    off = Saves("off")
    off.save(base=base)
    assert off.save(base=base) == Unchanged()


def test_nothing_is_kept_alive(saves: Saves) -> None:
    import weakref

    base = large()
    saves.save(base=base)
    gone = weakref.ref(base)
    del base
    assert gone() is None


def test_a_source_says_of_itself_whether_it_is_read_in_place() -> None:
    class Silent:
        spec = TensorSpec("uint8", (LEAST_BYTES,))

        def read(self) -> Array:
            return np.zeros(LEAST_BYTES, np.uint8)

    saves, source = Unwritten("on"), Silent()
    for sequence in (1, 2):
        assert saves.among({"there": source}, sequence, ()) == Unchanged()
        saves.durable(sequence)
    saves.close()
