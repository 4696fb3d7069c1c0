"""The history in one line."""

from __future__ import annotations

from holdfast.supervisor.causes import Cause
from holdfast.supervisor.deciding import Launch
from holdfast.supervisor.reporting import summary


def launch(cause: Cause, *, rank: int | None = None, resumed: int | None = 4, step: int = 9) -> Launch:
    code = 0 if cause is Cause.FINISHED else 1
    return Launch(cause=cause, code=code, rank=rank, resumed=resumed, step=step, steps=step - (resumed or 0))


def test_one_launch_needs_no_summary() -> None:
    assert summary([launch(Cause.FINISHED)]) == ""


def test_causes_and_lost_steps() -> None:
    history = [launch(Cause.CRASH, resumed=None), launch(Cause.HANG), launch(Cause.FINISHED, resumed=8)]
    assert summary(history) == "3 launches (crash, hang); 6 steps made again."


def test_of_several_ranks_it_says_which_failed_first_how_often() -> None:
    ranks = (1, 1, 0, None)
    history = [launch(Cause.CRASH, rank=rank) for rank in ranks] + [launch(Cause.FINISHED)]
    assert summary(history).endswith(" First to fail: rank 1 2 times, rank 0.")
