"""The history in one line."""

from __future__ import annotations

from holdfast.supervisor.causes import Cause
from holdfast.supervisor.deciding import Launch, Stop
from holdfast.supervisor.reporting import ended_event, report, summary


def launch(cause: Cause, *, rank: int | None = None, resumed: int | None = 4, step: int = 9) -> Launch:
    code = 0 if cause is Cause.FINISHED else 1
    return Launch(cause=cause, code=code, rank=rank, resumed=resumed, step=step, steps=step - (resumed or 0))


def test_one_launch_needs_no_summary() -> None:
    assert summary([launch(Cause.FINISHED)]) == ""


def test_causes_and_lost_steps() -> None:
    history = [launch(Cause.CRASH, resumed=None), launch(Cause.HANG), launch(Cause.FINISHED, resumed=8)]
    assert summary(history) == "3 launches (crash, hang); 6 steps made again."


def test_a_launch_that_came_to_nothing_does_not_hide_what_was_lost() -> None:
    nothing = launch(Cause.EXCEPTION, resumed=None, step=0)
    history = [launch(Cause.CRASH), nothing, nothing, launch(Cause.FINISHED, resumed=7)]
    assert summary(history) == "4 launches (crash, exception); 2 steps made again."
    told = report(("train",), history, ("finished", ""), 0)["launches"]
    assert [one["lost_steps"] for one in told] == [None, None, None, 2]
    assert ended_event(history, Stop()).lost_steps == 2


def test_of_several_ranks_it_says_which_failed_first_how_often() -> None:
    ranks = (1, 1, 0, None)
    history = [launch(Cause.CRASH, rank=rank) for rank in ranks] + [launch(Cause.FINISHED)]
    assert summary(history).endswith(" First to fail: rank 1 2 times, rank 0.")
