"""What was seen of a disturbed training, and what the disturbance cost: pure functions."""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Sequence

import msgspec


class Moment(msgspec.Struct, frozen=True):
    """Where a training stood.

    Attributes
    ----------
    seconds : float
        Since it was started.
    launch : int
        The how manyth launch it is, from 1.
    step : int
    resumed : int
        The step that the launch went on from; 0 for a fresh start.
    """

    seconds: float
    launch: int
    step: int
    resumed: int = 0


class Strike(msgspec.Struct, frozen=True):
    """One fault that was let happen.

    Attributes
    ----------
    fault : str
    at : Moment
        Where the training was seen last before.
    seconds : float
        When it struck.
    mended_seconds : float
        When it was over.
    """

    fault: str
    at: Moment
    seconds: float
    mended_seconds: float


class Recovery(msgspec.Struct, frozen=True):
    """What a fault cost.

    Attributes
    ----------
    lost_steps : int
        How many had to be made again (RPO).
    seconds : float or None
        Until the first step beyond where it was (RTO); None if there was none.
    """

    lost_steps: int
    seconds: float | None


def recovery(moments: Sequence[Moment], strike: Strike) -> Recovery:
    """What the only fault of a training cost."""
    after = [moment for moment in moments if moment.seconds > strike.seconds]
    later = [moment for moment in after if moment.launch > strike.at.launch]
    stood = (
        max([m.step for m in moments if m.launch == strike.at.launch], default=0) if later else strike.at.step
    )
    beyond = next((moment for moment in later or after if moment.step > stood), None)
    back = beyond or (later[-1] if later else None)
    lost = max(stood - back.resumed, 0) if later and back is not None else 0
    return Recovery(lost, beyond.seconds - strike.seconds if beyond is not None else None)


def costs(strike: Strike | None, cost: Recovery | None) -> tuple[str, str, str]:
    """Where it struck, lost steps and seconds, as people read them."""
    if strike is None or cost is None:
        return "-", "-", "-"
    back = f"{cost.seconds:.1f} s" if cost.seconds is not None else "-"
    return str(strike.at.step), str(cost.lost_steps), back


def joined(moments: list[Moment], moment: Moment) -> None:
    """Add what is new."""
    last = moments[-1] if moments else None
    if last is None or (moment.launch, moment.step) != (last.launch, last.step):
        moments.append(moment)


def lost_steps(moments: Iterable[Moment]) -> int:
    """How many steps were made again, launch by launch."""
    lost, stood = 0, 0
    for _, moments_of_one in itertools.groupby(moments, lambda moment: moment.launch):
        launch = list(moments_of_one)
        lost += max(stood - launch[0].resumed, 0)
        stood = launch[-1].step
    return lost


def launches(moments: Iterable[Moment]) -> int:
    """How many of them came as far as to train."""
    return len({moment.launch for moment in moments})
