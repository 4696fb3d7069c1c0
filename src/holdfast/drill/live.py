"""Faults in a run that trains now, under a `holdfast run` of somebody else's."""

from __future__ import annotations

import random
import re
import time
from collections.abc import Callable, Sequence

import msgspec
import psutil

from holdfast.drill.course import Moment, Recovery, Strike, joined, recovery
from holdfast.drill.faults.base import Fault
from holdfast.drill.launching import LOOK_SECONDS
from holdfast.drill.outside import Outside
from holdfast.errors import HoldfastError, NotFoundError, UsageError
from holdfast.node import groups, pulse
from holdfast.node.lease import holders
from holdfast.repository.repository import Repository
from holdfast.repository.run import Run


class Live(Outside):
    """A run that trains on this machine.

    Raises
    ------
    NotFoundError
        Nothing trains it here, or no `holdfast run` watches that.
    """

    def __init__(self, run: Run) -> None:
        super().__init__()
        self._run = run
        self._supervisor = psutil.Process(_supervisor_of(run))

    @property
    def supervisor(self) -> int:
        return self._supervisor.pid

    @property
    def supervised(self) -> bool:
        """Whether its supervisor still runs."""
        return self._supervisor.is_running() and groups.lives(self._supervisor.pid)

    @property
    def repository(self) -> Repository:
        return self._run.repository

    def runs(self) -> list[Run]:
        return [self._run]


class Suffered(msgspec.Struct, frozen=True, kw_only=True):
    """What one fault cost; there is nothing to compare the end with.

    Attributes
    ----------
    strike : Strike or None
        None if it did not happen.
    failure : str
        Why it did not happen, or the run did not come back.
    """

    fault: str
    meaning: str
    strike: Strike | None = None
    recovery: Recovery | None = None
    failure: str = ""


def check(faults: Sequence[Fault]) -> None:
    """Refuse what a live run must be spared.

    Raises
    ------
    UsageError
    """
    for fault in faults:
        if fault.copies_only:
            raise UsageError(
                f"{fault.name} is not for a live run: {fault.copies_only}.",
                do="Let it happen to a copy: leave out --live and give the command.",
            )


def drill_live(
    live: Live, faults: Sequence[Fault], seed: int, patience_seconds: float, say: Callable[[str], None]
) -> list[Suffered]:
    """Let one fault after the other happen, each once the run is over the one before."""
    dice, found = random.Random(seed), list[Suffered]()
    try:
        for fault in faults:
            course = _Course(live, fault, dice.random(), patience_seconds)
            found.append(course.follow())
            say(f"{fault.name}: {found[-1].failure or 'it is back.'}")
            if found[-1].failure:
                break
    finally:
        live.let_go()
    return found


class _Course:
    """From a step at which all is well to the first one beyond where it struck."""

    def __init__(self, live: Live, fault: Fault, part: float, patience_seconds: float) -> None:
        self._live = live
        self._fault = fault
        self._part = part
        self._until = live.seconds + patience_seconds
        self._patience_seconds = patience_seconds
        self._moments: list[Moment] = []
        self._strike: Strike | None = None
        self._lasts = False
        self._impossible = ""

    def follow(self) -> Suffered:
        try:
            while not (failure := self._failure()) and self._recovery() is None:
                if (moment := self._live.look()) is not None:
                    joined(self._moments, moment)
                self._act()
                time.sleep(LOOK_SECONDS)
        finally:
            self._mend()
        return Suffered(
            fault=self._fault.name,
            meaning=self._fault.meaning,
            strike=self._strike,
            recovery=self._recovery(),
            failure=failure,
        )

    def _failure(self) -> str:
        if self._impossible or not self._live.supervised:
            return self._impossible or "its supervisor has ended"
        if self._live.seconds < self._until:
            return ""
        lacking = "" if self._strike is not None else self._fault.lacks(self._live)
        return f"no new step within {self._patience_seconds:g} s" + (f": {lacking}" if lacking else "")

    def _recovery(self) -> Recovery | None:
        """What it cost; None before it has come back."""
        if self._strike is None or self._lasts:
            return None
        found = recovery(self._moments, self._strike)
        return found if found.seconds is not None else None

    def _act(self) -> None:
        if self._strike is not None:
            if self._live.seconds >= self._strike.mended_seconds:
                self._mend()
        elif len(self._moments) > 1 and not self._fault.lacks(self._live):
            time.sleep(self._part * self._live.step_seconds)
            self._strike_now(self._moments[-1])

    def _strike_now(self, moment: Moment) -> None:
        seconds = self._live.seconds
        try:
            self._fault.strike(self._live)
        except HoldfastError as error:
            self._impossible = str(error)
            return
        self._lasts = True
        self._strike = Strike(self._fault.name, moment, seconds, seconds + self._fault.lasts_seconds)

    def _mend(self) -> None:
        if self._lasts:
            self._fault.mend(self._live)
            self._lasts = False


def _supervisor_of(run: Run) -> int:
    here = [holder for holder in holders(run.storage, run.layout.leases) if holder.visible()]
    places = [place for holder in here if (place := pulse.place_of(holder.pid)) is not None]
    found = [match for place in places if (match := re.fullmatch(r"/proc/(\d+)/fd/\d+", place))]
    if not found:
        what = "no 'holdfast run' watches it" if here else "nothing trains it on this machine"
        raise NotFoundError(
            f"The run {run.name} cannot be drilled: {what}.", do="Start it by: holdfast run -- COMMAND"
        )
    return int(found[0][1])
