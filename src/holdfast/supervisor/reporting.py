"""What is told of launches: a line each while it goes on, and a report at the end."""

from __future__ import annotations

import itertools
from collections import Counter
from collections.abc import Sequence
from typing import Any

from holdfast.domain.events import LaunchEnded
from holdfast.supervisor.causes import Cause
from holdfast.supervisor.deciding import Launch, Restart, Stop


def ended(launch: Launch, decision: Restart | Stop) -> str:
    """One line for people: what ended it, and what comes next."""
    if launch.cause is Cause.FINISHED:
        return "the training is finished."
    where = f" at step {launch.step}" if launch.step else " before its first step"
    what = f"{launch.cause}{where}" + (f" ({launch.detail})" if launch.detail else "")
    if isinstance(decision, Stop):
        return f"{what}; not started again" + (f": {decision.why}." if decision.why else ".")
    if decision.wait_seconds >= 1:
        return f"{what}; starting again in {decision.wait_seconds:.0f} s."
    return f"{what}; starting again."


def ended_event(history: Sequence[Launch], decision: Restart | Stop) -> LaunchEnded:
    """The last launch, for programs."""
    launch = history[-1]
    before = history[-2] if len(history) > 1 else None
    return LaunchEnded(
        launch.run,
        launch=len(history),
        cause=launch.cause,
        detail=launch.detail,
        exit_code=launch.code,
        seconds=launch.ended_seconds - launch.began_seconds,
        resumed=launch.resumed,
        step=launch.step,
        steps=launch.steps,
        lost_steps=lost_steps(history[:-1], launch),
        recovery_seconds=recovery_seconds(before, launch) if before is not None else None,
        restarts=isinstance(decision, Restart),
        wait_seconds=decision.wait_seconds if isinstance(decision, Restart) else 0.0,
        why="" if isinstance(decision, Restart) else decision.why,
    )


def lost_steps(earlier: Sequence[Launch], after: Launch) -> int | None:
    """How many steps had to be made again; None if there was nothing before, or the launch came to nothing.

    What came to nothing in between takes nothing from where the last launch that trained stood.
    """
    if not earlier or not _trained(after):
        return None
    stood = next((launch.step for launch in reversed(earlier) if _trained(launch)), 0)
    return max(stood - (after.resumed or 0), 0)


def _trained(launch: Launch) -> bool:
    return launch.resumed is not None or launch.steps > 0


def recovery_seconds(before: Launch, after: Launch) -> float | None:
    """From the end of one launch to the first new step of the next."""
    first = after.first_step_seconds
    return first - before.ended_seconds if first is not None else None


def report(
    command: Sequence[str], history: Sequence[Launch], ended: tuple[str, str], code: int
) -> dict[str, Any]:
    """The history for programs; ``ended``: for what cause, and why nothing was tried any more."""
    named = next((launch for launch in reversed(history) if launch.run), None)
    return {
        "command": list(command),
        "exit_code": code,
        "cause": ended[0],
        "why_stopped": ended[1],
        "repository": named.location if named is not None else None,
        "run": named.run if named is not None else None,
        "seconds": history[-1].ended_seconds - history[0].began_seconds,
        "launches": [_told(history, number) for number in range(len(history))],
    }


def _told(history: Sequence[Launch], number: int) -> dict[str, Any]:
    launch = history[number]
    before = history[number - 1] if number else None
    return {
        "cause": str(launch.cause),
        "detail": launch.detail,
        "exit_code": launch.code,
        "seconds": launch.ended_seconds - launch.began_seconds,
        "resumed_step": launch.resumed,
        "step": launch.step,
        "steps": launch.steps,
        "lost_steps": lost_steps(history[:number], launch),
        "recovery_seconds": recovery_seconds(before, launch) if before is not None else None,
        "stacks": launch.stacks,
        "rank": launch.rank,
    }


def summary(history: Sequence[Launch]) -> str:
    """The history in one line for people; empty if there was one launch only."""
    pairs = list(itertools.pairwise(history))
    if not pairs:
        return ""
    lost = sum(lost_steps(history[:number], launch) or 0 for number, launch in enumerate(history))
    times = [seconds for pair in pairs if (seconds := recovery_seconds(*pair)) is not None]
    causes = ", ".join(dict.fromkeys(str(before.cause) for before, _ in pairs))
    slowest = f", back within {max(times):.1f} s" if times else ""
    return f"{len(history)} launches ({causes}); {lost} steps made again{slowest}.{_of_ranks(history)}"


def _of_ranks(history: Sequence[Launch]) -> str:
    """Which rank failed first how often: one that leads by far has a bad device, or bad data."""
    failed = [launch.rank for launch in history if launch.rank is not None and launch.code != 0]
    counted = Counter(failed).most_common()
    told = ", ".join(f"rank {rank}" + (f" {count} times" if count > 1 else "") for rank, count in counted)
    return f" First to fail: {told}." if told else ""
