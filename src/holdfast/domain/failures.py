"""How often training dies: a pure estimate from how its attempts ended."""

from __future__ import annotations

from collections.abc import Sequence

import msgspec

_HOUR_SECONDS = 3600.0
PRIOR_FAILURES = 0.5
PRIOR_SECONDS = 12 * _HOUR_SECONDS
"""What is believed before anything is seen, with the weight of half a failure: one a day."""
LONGEST_SILENCE_SECONDS = 12 * _HOUR_SECONDS
"""When an attempt died that recorded no end, only its successor's launch tells: days later, perhaps."""
_ORDERLY = ("SIGTERM", "SIGINT", "KeyboardInterrupt", "SystemExit", "restart ", "forked from ")
"""How the causes of ends begin that are no failure: notices, people, and attempts that never trained."""


class Life(msgspec.Struct, frozen=True):
    """One attempt that trained.

    Attributes
    ----------
    began_seconds : float
    ended_seconds, cause : float and str, or None
        What it recorded of its end.
    done : bool
        Whether its training came to its end.
    """

    began_seconds: float
    ended_seconds: float | None = None
    cause: str | None = None
    done: bool = False

    @property
    def failed(self) -> bool:
        return not self.done and not (self.cause or "").startswith(_ORDERLY)


class Reliability(msgspec.Struct, frozen=True):
    """What was seen of failures: so many, in so much time of training."""

    failures: int = 0
    observed_seconds: float = 0.0

    @property
    def between_failures_seconds(self) -> float:
        """The mean time between two, as far as can be believed by now."""
        return (self.observed_seconds + PRIOR_SECONDS) / (self.failures + PRIOR_FAILURES)

    def after(self, seconds: float) -> Reliability:
        """When it has gone well for so much longer."""
        return Reliability(self.failures, self.observed_seconds + seconds)


NOTHING_SEEN = Reliability()


def reliability(past: Sequence[Life], now_seconds: float) -> Reliability:
    """Sum up attempts that are over, oldest first."""
    nexts = [*(life.began_seconds for life in past), now_seconds][1:]
    seconds = (_lasted_seconds(life, after) for life, after in zip(past, nexts, strict=True))
    return Reliability(sum(life.failed for life in past), sum(seconds))


def _lasted_seconds(life: Life, next_began_seconds: float) -> float:
    if life.ended_seconds is not None:
        return max(life.ended_seconds - life.began_seconds, 0.0)
    return min(max(next_began_seconds - life.began_seconds, 0.0), LONGEST_SILENCE_SECONDS)
