"""Why to save at a safe point: somebody asks for it, something was found, or a rule says so."""

from __future__ import annotations

from holdfast.training.asking import Asked
from holdfast.training.health import Health
from holdfast.training.reports import Reports
from holdfast.training.saves import Save
from holdfast.training.saving import Saver
from holdfast.training.timing import Here, Timing
from holdfast.training.triggers import Triggers


class Reasons:
    """What there is to ask for a save."""

    def __init__(
        self, triggers: Triggers, asked: Asked, health: Health, reports: Reports, timing: Timing
    ) -> None:
        self._triggers = triggers
        self._asked = asked
        self._health = health
        self._reports = reports
        self._timing = timing

    def urgent(self) -> str | None:
        """Why to save whatever the rules of saving say: a signal, a request, or what was found."""
        if self._triggers.leaving is not None:
            return self._triggers.leaving.name
        if self._asked:
            return self._asked.reason
        if self._triggers.save_asked:
            return "SIGUSR1"
        return f"found: {self._health.save_for}" if self._health.save_for is not None else None

    def to_save(self, here: Here, saver: Saver) -> str | None:
        """Why to save there; None if there is no reason."""
        if (urgent := self.urgent()) is not None:
            return urgent
        if saver.paused():
            return None
        improved = self._reports.improved
        due = self._timing.reason(here, saver, improved=improved)
        return due or ("best so far" if improved else None)

    def take(self) -> list[Save]:
        """Who has asked; a save that follows answers all that was urgent."""
        self._triggers.save_asked = False
        return self._asked.take()

    def answered(self) -> None:
        """A save was tried for these reasons."""
        self._reports.improved, self._health.save_for = False, None
