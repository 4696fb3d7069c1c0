"""Following a copy of a training to its end, while faults happen to it."""

from __future__ import annotations

import time
from abc import ABC, abstractmethod

from holdfast.drill.course import Moment, Strike, joined
from holdfast.drill.faults.base import Fault
from holdfast.drill.launching import LOOK_SECONDS, Patience, Script
from holdfast.drill.supervised import Supervised


class Following(ABC):
    """Which fault strikes when is for others to say.

    Attributes
    ----------
    moments : list[Moment]
        What was seen of it.
    strikes : list[Strike]
        What was done to it.
    """

    def __init__(self, script: Script, training: Supervised) -> None:
        self._script = script
        self._training = training
        self._lasting: Fault | None = None
        self._to_start_again = False
        self.moments: list[Moment] = []
        self.strikes: list[Strike] = []

    @abstractmethod
    def _due(self, moment: Moment) -> Fault | None:
        """What is to strike now, of a training that stands there."""

    def follow(self) -> int:
        """Until it is over; returns the supervisor's exit code."""
        patience = Patience(self._script, self._training.scratch)
        while (code := self._training.poll()) is None or self._starts_again():
            moment = self._training.look()
            if moment is not None:
                joined(self.moments, moment)
            self._act()
            patience.look((self.moments[-1:], self.strikes[-1:], self._lasting))
            time.sleep(LOOK_SECONDS)
        self._mend()
        return code

    def _act(self) -> None:
        if self._lasting is not None:
            if self._training.seconds >= self.strikes[-1].mended_seconds:
                self._mend()
        elif self.moments and (fault := self._due(self.moments[-1])) is not None:
            self._strike(fault, self.moments[-1])

    def _strike(self, fault: Fault, moment: Moment) -> None:
        seconds = self._training.seconds
        fault.strike(self._training)
        self.strikes.append(Strike(fault.name, moment, seconds, seconds + fault.lasts_seconds))
        self._lasting, self._to_start_again = fault, fault.starts_again

    def _mend(self) -> None:
        if self._lasting is not None:
            self._lasting.mend(self._training)
            self._lasting = None

    def _starts_again(self) -> bool:
        """Start the supervisor again, once, if it was killed."""
        if not self._to_start_again:
            return False
        self._training.start_again()
        self._to_start_again = False
        return True
