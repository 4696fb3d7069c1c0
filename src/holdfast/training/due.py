"""Where the last save was, and whether another is due."""

from __future__ import annotations

import time

from holdfast.domain.failures import NOTHING_SEEN, Reliability
from holdfast.domain.save_rules import Observation, SaveRule


class Due:
    """A save rule, and where the run was when it last asked for something.

    Parameters
    ----------
    rule : SaveRule or None
        None asks for nothing.

    Attributes
    ----------
    step, epoch : int
        Where the run was at the last save, or where it was restored.
    """

    def __init__(self, rule: SaveRule | None) -> None:
        self._rule = rule
        self._started = time.monotonic()
        self.step = self.epoch = 0

    def mark(self, step: int, epoch: int) -> None:
        """That is saved now."""
        self.step, self.epoch = step, epoch

    def reason(
        self,
        step: int,
        epoch: int,
        since: float,
        cost_seconds: float | None,
        *,
        improved: bool = False,
        notable: str | None = None,
        reliability: Reliability = NOTHING_SEEN,
    ) -> str | None:
        """Why to save now; None if there is no reason.

        Parameters
        ----------
        since : float
            When the last save was, on the monotonic clock.
        cost_seconds : float or None
            What a save costs training.
        improved, notable, reliability
            As in `Observation`.
        """
        now = time.monotonic()
        seen = Observation(
            step=step,
            epoch=epoch,
            saved_step=self.step,
            saved_epoch=self.epoch,
            seconds_since_save=now - since,
            save_seconds=cost_seconds,
            started_seconds_ago=now - self._started,
            improved=improved,
            notable=notable,
            reliability=reliability,
        )
        return self._rule.due(seen) if self._rule is not None and (seen.moved or improved) else None
