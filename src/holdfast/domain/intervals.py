"""How far apart saves should be: Young's and Daly's answer, within bounds."""

from __future__ import annotations

import math

import msgspec

from holdfast.domain.failures import Reliability


class Bounds(msgspec.Struct, frozen=True):
    """What no choice goes beyond.

    Attributes
    ----------
    share : float
        Of the time, what saving may cost.
    least_seconds, most_seconds : float
        However cheap a save is; however dear it is.
    """

    share: float
    least_seconds: float
    most_seconds: float

    def soonest_seconds(self, save_seconds: float) -> float:
        """How soon after a save the next one may come."""
        return min(max(save_seconds / self.share, self.least_seconds), self.most_seconds)


class Choice(msgspec.Struct, frozen=True):
    """How far apart saves are, and why.

    Attributes
    ----------
    interval_seconds : float
        From one save to the next.
    soonest_seconds : float
        From one save to one that is brought forward.
    save_seconds : float
        What a save costs training.
    reliability : Reliability
    """

    interval_seconds: float
    soonest_seconds: float
    save_seconds: float
    reliability: Reliability

    @property
    def overhead(self) -> float:
        """The share of the time that saving costs."""
        return self.save_seconds / (self.interval_seconds + self.save_seconds)

    @property
    def loss_seconds(self) -> float:
        """What a failure costs on average: it comes anywhere between two saves."""
        return self.interval_seconds / 2

    def __str__(self) -> str:
        seen, between = self.reliability, self.reliability.between_failures_seconds
        failures = f"{seen.failures} failure{'' if seen.failures == 1 else 's'}"
        return (
            f"saves every {span(self.interval_seconds)}: a save costs {span(self.save_seconds)}, a failure "
            f"comes every {span(between)} ({failures} in {span(seen.observed_seconds)}); "
            f"a failure loses {span(self.loss_seconds)} on average, saving {self.overhead:.2%} of the time"
        )


def choose(save_seconds: float, seen: Reliability, bounds: Bounds) -> Choice:
    """Choose the interval that loses least time to saves and failures together, within bounds."""
    soonest_seconds = bounds.soonest_seconds(save_seconds)
    wanted_seconds = best_interval_seconds(save_seconds, seen.between_failures_seconds)
    interval_seconds = min(max(wanted_seconds, soonest_seconds), bounds.most_seconds)
    return Choice(interval_seconds, soonest_seconds, save_seconds, seen)


def best_interval_seconds(save_seconds: float, between_failures_seconds: float) -> float:
    """Daly's higher-order optimum (2006); where a save is cheap it is Young's sqrt(2 C M) (1974).

    From C = 2 M on, where Daly takes M itself, the formula stays at its end, 8/9 M: so it never
    decreases as either grows.
    """
    mean = between_failures_seconds
    root = math.sqrt(min(save_seconds / (2 * mean), 1.0))
    return 2 * mean * (root - 2 / 3 * root**2 + root**3 / 9)


def span(seconds: float) -> str:
    """A time span with two digits at least: ``4.2 ms``, ``51 s``, ``4.9 min``, ``31 h``."""
    for limit, size, unit in ((1, 1e-3, "ms"), (60, 1, "s"), (3600, 60, "min"), (172800, 3600, "h")):
        if seconds < limit:
            return f"{_short(seconds / size)} {unit}"
    return f"{_short(seconds / 86400)} days"


def _short(amount: float) -> str:
    return f"{amount:.1f}" if 0 < amount < 10 else f"{amount:.0f}"
