"""From the first launch to the last: start, watch, decide, and start again."""

from __future__ import annotations

import os
import random
import time
from collections.abc import Mapping
from pathlib import Path

import msgspec

from holdfast.domain.events import LaunchBegan, Recovered
from holdfast.errors import UsageError
from holdfast.node.groups import started
from holdfast.node.pulse import PLACE_VARIABLE, RANKS_VARIABLE, Page, Seen
from holdfast.supervisor import reporting
from holdfast.supervisor.causes import JUDGED, Cause, signal_of
from holdfast.supervisor.deciding import Budget, Launch, Restart, Stop, decide, furthest, streak
from holdfast.supervisor.earlier import step_back
from holdfast.supervisor.rules import Rule
from holdfast.supervisor.signals import Signals
from holdfast.supervisor.watching import ENDS, Audience, Watch, Watching
from holdfast.training.overrides import VARIABLE, Overrides
from holdfast.training.overrides import read as read_overrides

LOG_NAME = "holdfast-run.log"
"""Where a training prints whose terminal is gone."""


class Supervision(msgspec.Struct, frozen=True, kw_only=True):
    """How a command is supervised.

    Attributes
    ----------
    command : tuple[str, ...]
    rules : mapping
    budget : Budget
    watching : Watching
    preempted_code : int
        What a preempted training ends with.
    skip_batches : int
        Before a step that failed again and again, how many batches to pass over.
    ranks : int
        How many of them the command starts.
    """

    command: tuple[str, ...]
    rules: Mapping[Cause, Rule]
    budget: Budget = Budget()
    watching: Watching = Watching()
    preempted_code: int = 143
    skip_batches: int = 0
    ranks: int = 1


class Supervisor:
    """Runs a command until it is finished, or nothing helps.

    Parameters
    ----------
    how : Supervision
    audience : Audience
        Who is told what.

    Attributes
    ----------
    history : list[Launch]
    """

    def __init__(self, how: Supervision, audience: Audience) -> None:
        self._how = how
        self._audience = audience
        self._say = audience.say
        self.history: list[Launch] = []
        self.why_stopped = ""
        self._skip: dict[int, int] = {}
        self._is_back = self._went_back = False
        self._given = read_overrides(os.environ)
        self._told_to_end: Cause | None = None

    def run(self) -> int:
        """Return the exit code to end with.

        Raises
        ------
        UsageError
            There was never such a command.
        """
        decision: Restart | Stop = Restart(0.0)
        with Signals() as signals:
            while isinstance(decision, Restart):
                launch = self._launch(signals, self._overrides(decision.back))
                self.history.append(launch)
                decision = decide(
                    self.history, self._how.rules, self._how.budget, time.monotonic(), random.random()
                )
                if launch.stacks:
                    self._say(f"where its threads were:\n{launch.stacks}")
                self._say(reporting.ended(launch, decision))
                self._audience.emit(reporting.ended_event(self.history, decision))
                if isinstance(decision, Restart) and self._is_told_to_end(signals, decision.wait_seconds):
                    decision = Stop("asked to end while it waited")
        self.why_stopped = decision.why
        return self._code()

    @property
    def ended_for(self) -> Cause:
        """Why it is over: the last launch's cause, unless told to end after that."""
        return self._told_to_end or self.history[-1].cause

    def _launch(self, signals: Signals, overrides: Overrides) -> Launch:
        page, others = Page(), [Page() for _ in range(1, self._how.ranks)]
        output = _log() if signals.terminal_gone else None
        variables = os.environ | {PLACE_VARIABLE: page.place}
        if others:
            variables |= {RANKS_VARIABLE: ",".join(other.place for other in others)}
        if overrides != Overrides():
            variables |= {VARIABLE: overrides.encoded()}
        try:
            group = started(self._how.command, variables, output)
            number = len(self.history) + 1
            self._audience.emit(LaunchBegan("", number, self._how.command, overrides.resume))
            self._is_back = not self.history
            audience = msgspec.structs.replace(self._audience, look=self._look)
            watch = Watch(group, (page, *others), signals, self._how.watching, audience, number)
            code = watch.until_the_end()
            self._look(page.look())
            return watch.launch(code, first=not self.history)
        except UsageError as error:
            if not self.history:
                raise
            return _unstarted(error)
        finally:
            for each in (page, *others):
                each.close()
            if output is not None:
                os.close(output)

    def _look(self, seen: Seen) -> None:
        self._audience.look(seen)
        if not self._is_back and seen.first_step_seconds is not None:
            self._is_back = True
            before = self.history[-1]
            seconds = seen.first_step_seconds - before.ended_seconds
            self._audience.emit(Recovered(before.run, len(self.history) + 1, seen.step, seconds))

    def _overrides(self, back: int) -> Overrides:
        """Where the next launch resumes: the newest recovery point, or so many before it."""
        before = self._back_in_vain()
        self._went_back = back > 0
        if not back:
            return msgspec.structs.replace(self._given, skip=self._skip)
        if self._how.skip_batches:
            self._skip[furthest(self.history)] = self._how.skip_batches
            self._say(
                f"{self._how.skip_batches} batches after step {furthest(self.history)} will be passed over."
            )
        known = next((launch for launch in reversed(self.history) if launch.run), None)
        step = step_back(known.location, known.run, back, before) if known is not None else None
        if step is None:
            self._say("there is no earlier recovery point to go back to.")
        else:
            self._say(f"going back to the recovery point at step {step}; nothing is rejected.")
        return msgspec.structs.replace(self._given, resume=step, skip=self._skip)

    def _back_in_vain(self) -> int | None:
        """Where the last launch began, if it was sent back and the run has got no further by that."""
        return self.history[-1].resumed if self._went_back and streak(self.history) > 1 else None

    def _is_told_to_end(self, signals: Signals, seconds: float) -> bool:
        until = time.monotonic() + seconds
        while (left := until - time.monotonic()) > 0:
            if (heard := signals.wait(left)) in ENDS:
                self._told_to_end = ENDS[heard]
                return True
        return False

    def _code(self) -> int:
        last = self.history[-1]
        if self.ended_for is Cause.PREEMPTED:
            return self._how.preempted_code
        if self.ended_for is Cause.INTERRUPTED:
            return 130
        if self.ended_for in JUDGED or (last.code == 0 and self.ended_for is not Cause.FINISHED):
            return 1  # not 143, with which it left when it was asked to: others would start it again
        number = signal_of(last.code)
        return last.code if last.code >= 0 or number is None else 128 + number


def _unstarted(error: UsageError) -> Launch:
    """A launch that could not begin, where others could: for want of memory, say, or as a disk is away."""
    now, why = time.monotonic(), error.what.rstrip(".")
    return Launch(cause=Cause.EXCEPTION, detail=why, code=127, began_seconds=now, ended_seconds=now)


def _log() -> int:
    """Where it prints from now on; nowhere if that cannot be written: training matters more."""
    try:
        return os.open(Path(LOG_NAME), os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC, 0o600)
    except OSError:
        return os.open(os.devnull, os.O_WRONLY | os.O_CLOEXEC)
