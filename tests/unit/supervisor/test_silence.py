"""Silence is progress that does not come; a pause, a debugger and a slow phase are none."""

from __future__ import annotations

import pytest

from holdfast.node.pulse import Phase, Seen
from holdfast.supervisor.losses import Losses
from holdfast.supervisor.silence import Bounds, Silence, Suspicion, deadline_seconds, is_debugged

BOUNDS = Bounds(factor=10, least_seconds=5, slow_seconds=100)


def seen(beats: int = 1, phase: Phase = Phase.STEPPING, longest: float = 0.0) -> Seen:
    return Seen(pid=1, beats=beats, phase=phase, longest_seconds=(longest,) * len(Phase))


def silent_after(silence: Silence, ticks: int, *, start: float = 0.0, paused: bool = False) -> float:
    found = 0.0
    for tick in range(1, ticks + 1):
        found = silence.look(seen(), start + tick, lambda: paused)
    return found


def test_deadlines_are_learned_within_bounds() -> None:
    assert deadline_seconds(seen(longest=0.1), BOUNDS) == 5
    assert deadline_seconds(seen(longest=2.0), BOUNDS) == 20


@pytest.mark.parametrize("phase", sorted(set(Phase) - {Phase.STEPPING}))
def test_what_takes_long_is_given_time_of_its_own(phase: Phase) -> None:
    assert deadline_seconds(seen(phase=phase, longest=2.0), BOUNDS) == 100
    assert deadline_seconds(seen(phase=phase, longest=50.0), BOUNDS) == 500


def test_silence_adds_up_until_something_moves() -> None:
    silence = Silence(0.0)
    assert silent_after(silence, 10) == 9.0  # the first look learns where it is
    assert silence.look(seen(beats=2), 11.0, lambda: False) == 0.0
    assert silence.look(seen(beats=2), 12.0, lambda: False) == 1.0


def test_a_stopped_process_is_not_silent() -> None:
    assert silent_after(Silence(0.0), 60, paused=True) == 0.0


def test_a_supervisor_that_was_stopped_itself_accuses_nobody() -> None:
    silence = Silence(0.0)
    silent_after(silence, 3)
    assert silence.look(seen(), 3600.0, lambda: False) <= 4.0


def test_threads_that_stay_where_they_are_hang() -> None:
    suspicion = Suspicion()
    assert not suspicion.wants_stacks(9.9, 10)
    assert suspicion.wants_stacks(10, 10)
    assert not suspicion.hangs(10, 10, "line 5")  # looked at once only
    assert not suspicion.wants_stacks(12, 10)
    assert suspicion.wants_stacks(12.5, 10)
    assert suspicion.hangs(12.5, 10, "line 5")


def test_threads_that_move_are_given_more_time_but_not_for_ever() -> None:
    suspicion = Suspicion()
    suspicion.hangs(10, 10, "line 5")
    assert not suspicion.hangs(12.5, 10, "line 6")
    assert not suspicion.hangs(20, 10, "line 7")
    assert suspicion.hangs(25, 10, "line 8")


def test_who_cannot_be_asked_hangs_when_time_is_up() -> None:
    assert Suspicion().hangs(10, 10, "")


def test_a_debugger_is_no_hang() -> None:
    stacks = 'Current thread 0x1 (most recent call first):\n  File "/usr/lib/python3.11/pdb.py", line 3 in x'
    assert is_debugged(stacks)
    assert not Suspicion().hangs(1000, 10, stacks)
    assert not is_debugged('File "/home/me/train.py", line 3')


def losses(values: list[float], factor: float = 10.0) -> list[float | None]:
    found = Losses(factor)
    return [found.rise(Seen(step=step, loss=value)) for step, value in enumerate(values)]


def test_an_explosion_lasts() -> None:
    assert losses([1.0] * 20 + [50.0] * 3)[-1] == 50.0
    assert losses([1.0] * 20 + [50.0] * 2 + [1.0] + [50.0] * 2) == [None] * 25


def test_few_losses_are_no_measure_and_none_is_asked_for_by_default() -> None:
    assert losses([1.0] * 5 + [99.0] * 4) == [None] * 9
    assert losses([1.0] * 20 + [99.0] * 9, factor=0.0) == [None] * 29


def test_a_step_seen_twice_counts_once() -> None:
    found = Losses(2.0)
    for step in range(20):
        found.rise(Seen(step=step, loss=1.0))
    assert [found.rise(Seen(step=20, loss=9.0)) for _ in range(9)] == [None] * 9
