"""Why to save at a safe point: somebody asks for it, or a rule does."""

from __future__ import annotations

from holdfast.training.asking import Asked
from holdfast.training.due import Due
from holdfast.training.options import Options
from holdfast.training.reports import Reports
from holdfast.training.saving import Saver
from holdfast.training.triggers import Triggers


class Reasons:
    """What there is to ask for a save.

    Attributes
    ----------
    on_disk, in_memory : Due
        What the rules say; where the run was when they last asked.
    """

    def __init__(self, options: Options, triggers: Triggers, asked: Asked, reports: Reports) -> None:
        self._triggers = triggers
        self._asked = asked
        self._reports = reports
        self.on_disk, self.in_memory = Due(options.save), Due(options.memory)

    def mark(self, step: int, epoch: int) -> None:
        """All that is there is saved now."""
        self.on_disk.mark(step, epoch)
        self.in_memory.mark(step, epoch)

    def urgent(self) -> str | None:
        """What somebody asks for, by a signal or in words; None if nobody does."""
        if self._triggers.leaving is not None:
            return self._triggers.leaving.name
        if self._asked:
            return self._asked.reason
        return "SIGUSR1" if self._triggers.save_asked else None

    def to_save(self, step: int, epoch: int, saver: Saver) -> str | None:
        """Why to save there; None if there is no reason."""
        if (urgent := self.urgent()) is not None:
            return urgent
        if saver.paused():
            return None
        improved = self._reports.improved
        due = self.on_disk.reason(step, epoch, saver.saved_at, saver.burden_seconds, improved=improved)
        return due or ("best so far" if improved else None)

    def to_hold(self, step: int, epoch: int, saver: Saver) -> str | None:
        """Why to hold a snapshot in memory there; None if there is no reason."""
        due = self.in_memory.reason(step, epoch, saver.held_at, saver.hold_seconds)
        return f"memory {due}" if due is not None else None
