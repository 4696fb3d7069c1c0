"""What to do after a launch: a pure function of the history, the rules and the budget."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import msgspec

from holdfast.supervisor.causes import Cause
from holdfast.supervisor.rules import Rule

LONGEST_WAIT_SECONDS = 300.0


class Launch(msgspec.Struct, kw_only=True):
    """One launch that is over.

    Attributes
    ----------
    cause : Cause
    detail : str
    code : int
        Exit code; negative for a signal.
    began_seconds, ended_seconds : float
        On one clock.
    resumed : int or None
        The step that it went on from.
    step : int
        The last one that it counted, or resumed from.
    steps : int
        How many it counted.
    first_step_seconds : float or None
        When the first of them was seen.
    stacks : str
        Where its threads were, if it hung.
    location, run : str
        Where its checkpoints are.
    rank : int or None
        Of several ranks the one that failed first, as far as that can be told.
    """

    cause: Cause
    detail: str = ""
    code: int = 0
    began_seconds: float = 0.0
    ended_seconds: float = 0.0
    resumed: int | None = None
    step: int = 0
    steps: int = 0
    first_step_seconds: float | None = None
    stacks: str = ""
    location: str = ""
    run: str = ""
    rank: int | None = None


class Budget(msgspec.Struct, frozen=True):
    """How many restarts there are in any stretch of time."""

    restarts: int = 20
    window_seconds: float = 3600.0


class Restart(msgspec.Struct, frozen=True):
    """Launch again, from the newest recovery point but ``back``."""

    wait_seconds: float
    back: int = 0


class Stop(msgspec.Struct, frozen=True):
    """Launch no more."""

    why: str = ""


def decide(
    history: Sequence[Launch], rules: Mapping[Cause, Rule], budget: Budget, now_seconds: float, dice: float
) -> Restart | Stop:
    """Say what comes after the last launch.

    Parameters
    ----------
    dice : float
        At random from 0 to 1: launches that failed together do not come back together.
    """
    last = history[-1]
    rule, tries = rules.get(last.cause, Rule()), streak(history)
    if not rule.restarts:
        return Stop()
    if tries > rule.restarts:
        times = f"{tries} launches in a row" if tries > 1 else "it"
        return Stop(f"{times} got no further than step {furthest(history)}")
    if recent(history, budget, now_seconds) > budget.restarts:
        return Stop(f"{budget.restarts} restarts within {budget.window_seconds:g} s are used up")
    back = max(tries - rule.back_after + 1, 0) if rule.back_after else 0
    return Restart(_wait_seconds(rule, tries, dice), back)


def streak(history: Sequence[Launch]) -> int:
    """How many launches in a row, to the last, did not get further than any before the first of them."""
    best, tries = -1, 0
    for launch in history:
        tries = 1 if launch.step > best else tries + 1
        best = max(best, launch.step)
    return tries


def furthest(history: Sequence[Launch]) -> int:
    return max(launch.step for launch in history)


def recent(history: Sequence[Launch], budget: Budget, now_seconds: float) -> int:
    """How many launches have ended within the window."""
    return sum(now_seconds - launch.ended_seconds <= budget.window_seconds for launch in history)


def _wait_seconds(rule: Rule, tries: int, dice: float) -> float:
    if tries == 1:
        return rule.wait_seconds
    seconds = max(rule.wait_seconds, 1.0) * 2.0 ** (tries - 1)
    return min(seconds, LONGEST_WAIT_SECONDS) * (0.5 + dice)
