"""Which passes an epoch has: done, open, and to come again after a restore."""

from __future__ import annotations

from itertools import islice

import pytest

from holdfast.training.passes import Passes


def passed(passes: Passes, count: int, *, cut: bool = False) -> list[float]:
    """Take batches of the next pass over ten, and close it."""
    batch_pass = passes.begin(list(range(10)), None)
    assert batch_pass is not None
    taken = list(islice(batch_pass, count))
    passes.trained = True
    passes.close(batch_pass, passes.cut(batch_pass) if cut else None)
    return taken


def resumed(passes: Passes) -> Passes:
    after = Passes(99)
    after.restore(passes.state())
    return after


def test_a_pass_that_was_cut_short_goes_on_and_those_before_it_are_skipped() -> None:
    passes = Passes(5)
    assert passed(passes, 10) == list(range(10))
    assert passed(passes, 4, cut=True) == [0, 1, 2, 3]
    assert passes.cut_short
    after = resumed(passes)
    assert after.delivered() == (10, 10)
    assert after.begin([1], None) is None
    assert not after.all_resumed
    assert after.left(list(range(10))) == 6
    assert after.delivered() == (4, 14)
    assert passed(after, 10) == [4, 5, 6, 7, 8, 9]
    assert after.all_resumed
    assert after.delivered() == (10, 20)
    assert after.left(list(range(10))) == 10


def test_an_epoch_begun_anew_in_the_same_process_takes_up_its_passes() -> None:
    passes = Passes(5)
    passed(passes, 4, cut=True)
    passes.come_again()
    assert passed(passes, 10) == [4, 5, 6, 7, 8, 9]


def test_a_loop_that_ends_with_the_data_cuts_nothing() -> None:
    passes = Passes(5)
    passed(passes, 10, cut=True)
    assert not passes.cut_short
    assert passes.delivered() == (10, 10)


def test_passes_are_numbered_over_the_run_and_each_epoch_keeps_its_last() -> None:
    passes = Passes(5)
    for _ in range(2):
        passed(passes, 10)
        passed(passes, 10)
        passes.end_epoch()
    state = passes.state()
    assert state["passes"] == []
    assert state["pass_number"] == 4
    assert {place: last["number"] for place, last in state["last_passes"].items()} == {0: 2, 1: 3}
    assert resumed(passes).state() == state


@pytest.mark.parametrize("trained", [True, False])
def test_only_a_pass_with_steps_is_an_epoch_of_its_own(trained: bool) -> None:
    passes = Passes(5)
    batch_pass = passes.begin([1.0], None)
    assert batch_pass is not None
    passes.trained = trained
    assert passes.end_own_epoch(passes.close(batch_pass, None)) is trained
    assert (0 in passes.state()["last_passes"]) is trained
    assert passes.state()["passes"] == []
