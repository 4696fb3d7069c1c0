"""What a save costs training: the loop's wait, and the slowdown of the steps that go on beside it."""

from __future__ import annotations

from collections import deque
from statistics import median

from holdfast.domain.usual import Window

REMEMBERED = 5
"""Saves: a single slow one moves their median not at all."""


class SaveCosts:
    """Learns the cost from steps and saves as they come.

    Attributes
    ----------
    seconds : float or None
        The cost of a save; None before the first.
    """

    def __init__(self) -> None:
        self._waits_seconds: deque[float] = deque(maxlen=REMEMBERED)
        self._shares_seconds: deque[float] = deque(maxlen=REMEMBERED)
        self._quiet, self._beside = Window(), Window()
        self._saves = self._steps_beside = 0
        self._stepped_at: float | None = None
        self._was_saving = False
        self.seconds: float | None = None

    def stepped(self, now_seconds: float, *, saving: bool) -> None:
        """A step was counted; ``saving``: a save is on its way."""
        if self._stepped_at is not None:
            self._take(now_seconds - self._stepped_at, saving=saving)
        self._stepped_at, self._was_saving = now_seconds, saving

    def _take(self, seconds: float, *, saving: bool) -> None:
        if self._was_saving:
            self._beside.add(seconds)
            self._steps_beside += 1
        elif not saving:  # else the save began with this step, which has the loop's wait in it
            self._quiet.add(seconds)

    def saved(self, wait_seconds: float, share_seconds: float) -> None:
        """A save is durable: how long the loop waited, and its share of a core that worked beside it."""
        self._waits_seconds.append(wait_seconds)
        self._shares_seconds.append(share_seconds)
        self._saves += 1
        slowdown = self._slowdown_seconds()
        beside = slowdown if slowdown is not None else median(self._shares_seconds)
        self.seconds = median(self._waits_seconds) + beside

    def _slowdown_seconds(self) -> float | None:
        """What steps beside a save take longer, all together; None while too few were seen."""
        quiet, beside = self._quiet.usual, self._beside.usual
        if quiet is None or beside is None:
            return None
        return max(beside.center - quiet.center, 0.0) * self._steps_beside / self._saves
