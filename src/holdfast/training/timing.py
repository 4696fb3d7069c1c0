"""When this attempt saves, and when it holds a snapshot: its rules, and what they look at."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from typing import Any

from holdfast.domain.failures import NOTHING_SEEN, Reliability
from holdfast.domain.intervals import Choice
from holdfast.domain.learning import Records, is_jump
from holdfast.domain.save_rules import SaveRule, auto_of
from holdfast.training.due import Due
from holdfast.training.pulsing import number_at_hand
from holdfast.training.saving import Saver
from holdfast.training.schedules import Schedules

Here = tuple[int, int]
"""Step and epoch."""


class Timing:
    """Rules for the disk and for memory, and where the run was when they last asked.

    Parameters
    ----------
    on_disk, in_memory : SaveRule or None
    """

    def __init__(self, on_disk: SaveRule | None, in_memory: SaveRule | None) -> None:
        self._disk, self._memory = Due(on_disk), Due(in_memory)
        self._auto = auto_of(on_disk)
        self._began = time.monotonic()
        self._records = Records()
        self._schedules = Schedules()
        self._notable: str | None = None
        self._past = NOTHING_SEEN

    # -- what is noted -----------------------------------------------------------------

    def begin(self, state: Mapping[str, Any], past: Callable[[], Reliability]) -> None:
        """Look at schedules, and at what earlier attempts say of failures, if a rule wants to know."""
        if self._auto is not None:
            self._schedules.begin(state)
            self._past = past()

    def reported(self, metrics: Mapping[str, Any]) -> None:
        """Metrics of the state just evaluated; none is waited for."""
        for name, value in metrics.items() if self._auto is not None else ():
            number = number_at_hand(value)
            if number is not None and self._records.is_broken(name, number):
                self._notable = f"{name} improved"

    def saved(self, here: Here) -> None:
        self._disk.mark(*here)
        self._memory.mark(*here)
        self._notable = None

    @property
    def saved_here(self) -> Here:
        """Where the run was at its last save, or where it was restored."""
        return self._disk.step, self._disk.epoch

    def held(self, here: Here) -> None:
        self._memory.mark(*here)

    def left_out(self, here: Here) -> None:
        """What was due is not saved, or no longer: the rule counts from here."""
        self._disk.mark(*here)

    # -- what is decided ---------------------------------------------------------------

    def reason(self, here: Here, saver: Saver, *, improved: bool) -> str | None:
        """Why to save; None if no rule has a reason."""
        before, now = self._schedules.look()
        if is_jump(before, now):
            self._notable = "the learning rate changes"
        return self._disk.reason(
            *here,
            saver.saved_at,
            saver.burden_seconds,
            improved=improved,
            notable=self._notable,
            reliability=self._reliability,
        )

    def reason_to_hold(self, here: Here, saver: Saver) -> str | None:
        """Why to hold a snapshot in memory; None if the rule has no reason."""
        due = self._memory.reason(*here, saver.held_at, saver.hold_seconds)
        return f"memory {due}" if due is not None else None

    def choice(self, saver: Saver) -> Choice | None:
        """What ``auto`` has chosen; None without it, or before the first save."""
        if self._auto is None or saver.burden_seconds is None:
            return None
        return self._auto.choice(saver.burden_seconds, self._reliability)

    @property
    def _reliability(self) -> Reliability:
        if self._auto is None:
            return NOTHING_SEEN
        return self._past.after(time.monotonic() - self._began)
