"""A storm: faults at random moments into one training; whether it ends exact, and the price."""

from __future__ import annotations

import random
from collections import Counter
from collections.abc import Callable, Sequence
from functools import partial

import msgspec

from holdfast.drill.comparing import Difference, Made, made
from holdfast.drill.course import Moment, Strike, launches, lost_steps
from holdfast.drill.drilling import Drill
from holdfast.drill.faults.base import Fault
from holdfast.drill.following import Following
from holdfast.drill.judging import judged, unended
from holdfast.drill.launching import Training, launched, undisturbed
from holdfast.drill.supervised import Supervised
from holdfast.errors import HoldfastError


class Storm(Drill, frozen=True, kw_only=True):
    """How it blows.

    Attributes
    ----------
    storm_seconds : float
        From the first step on; then the training is left alone.
    every_seconds : float
        Between two faults, on average.
    """

    storm_seconds: float
    every_seconds: float = 5.0


class Weathered(msgspec.Struct, frozen=True, kw_only=True):
    """What came of it.

    Attributes
    ----------
    steps : int
        The last one.
    start_seconds, work_seconds : float
        Of a training to which nothing happens: until its first step, and from there to its end.
    seconds : float
        Of the training in the storm.
    strikes : list[Strike]
    restarts, lost_steps : int
    compared : int
        How many checkpoints were.
    difference : Difference or None
        The first, from what the undisturbed training made.
    failure : str
        Why the training did not come to its end.
    likely : str
        What is probably the matter.
    moments : list[Moment]
    """

    command: tuple[str, ...]
    seed: int
    save: str
    run_flags: str
    steps: int
    start_seconds: float
    work_seconds: float
    seconds: float
    strikes: list[Strike]
    restarts: int
    lost_steps: int
    compared: int
    difference: Difference | None = None
    failure: str = ""
    likely: str = ""
    moments: list[Moment] = []

    @property
    def held(self) -> bool:
        """Whether it ended exact, and there was a storm at all."""
        return self.difference is None and not self.failure

    @property
    def useful(self) -> float:
        """The part of the time that the work itself takes."""
        return min(self.work_seconds / self.seconds, 1.0)

    @property
    def ideal(self) -> float:
        """The same if each launch took no longer to start than an undisturbed one, and nothing was lost."""
        return self.work_seconds / (self.work_seconds + (self.restarts + 1) * self.start_seconds)


def storm(how: Storm, faults: Sequence[Fault], say: Callable[[str], None]) -> Weathered:
    """Run the script undisturbed, then once through a storm.

    Raises
    ------
    HoldfastError
        It fails although nothing happens to it, or it saves nothing.
    """
    calm = Training(how, "undisturbed")
    whole = launched(calm)
    last = max(steps := {step for _, step in whole})
    say(f"undisturbed: {len(steps)} steps saved, up to step {last}, in {calm.seconds:.1f} s.")
    training = Supervised(how, "storm", how.way, faults)
    course = _Blowing(how, training, faults, say)
    on_line = any(fault.spoils_state for fault in faults)
    failure, others, found, why = "", list[Made](), None, ""
    try:
        failure = course.why_not_well()
        others = list(made(training.repository, on_line=on_line))
        found, why = judged(whole, others, partial(undisturbed, how, "again"), say)
    except HoldfastError as error:
        failure = failure or str(error)
    finally:
        seconds = training.seconds
        training.end()
    return Weathered(
        command=how.command,
        seed=how.seed,
        save=how.way.save,
        run_flags=how.way.run_flags,
        steps=last,
        start_seconds=calm.start_seconds,
        work_seconds=calm.seconds - calm.start_seconds,
        seconds=seconds,
        strikes=course.strikes,
        restarts=launches(course.moments) - 1,
        lost_steps=lost_steps(course.moments),
        compared=len(others),
        difference=found,
        failure=failure or unended(whole, others),
        likely=why,
        moments=course.moments,
    )


def told(found: Weathered) -> str:
    """One line for people."""
    kinds = ", ".join(f"{name} {n}" for name, n in Counter(s.fault for s in found.strikes).most_common())
    return (
        f"{_several(len(found.strikes), 'fault')} ({kinds}) in {found.seconds:.0f} s, "
        f"{_several(found.restarts, 'restart')}, {_several(found.lost_steps, 'step')} lost; "
        f"useful work {found.useful:.0%} of the time, {found.ideal:.0%} would be ideal; "
        f"{'exact' if found.held else 'NOT exact'} (--seed {found.seed})"
    )


def _several(count: int, noun: str) -> str:
    return f"{count} {noun}{'s' * (count != 1)}"


class _Blowing(Following):
    """Lets faults happen at random moments, one after the other."""

    def __init__(
        self, how: Storm, training: Supervised, faults: Sequence[Fault], say: Callable[[str], None]
    ) -> None:
        super().__init__(how, training)
        self._how = how
        self._faults = faults
        self._say = say
        self._said: set[str] = set()
        self._dice = random.Random(how.seed)
        self._ends_at: float | None = None
        self._next = self._drawn()
        self._next_at = 0.0

    def why_not_well(self) -> str:
        """Follow it; empty if it came to its end."""
        code = self.follow()
        said = self._training.scratch.said
        if not self.strikes:
            return "the training was over before a fault could strike: give it more steps"
        return f"the training was given up with exit code {code}; it said:\n{said}" if code else ""

    def _strike(self, fault: Fault, moment: Moment) -> None:
        try:
            super()._strike(fault, moment)
        except HoldfastError as error:  # too soon after another, say; the next one comes
            self._say(f"{fault.name} did not come off: {error}")

    def _drawn(self) -> tuple[Fault, float]:
        """The next fault, and how long after the one before."""
        return self._dice.choice(self._faults), self._dice.uniform(0, 2 * self._how.every_seconds)

    def _due(self, moment: Moment) -> Fault | None:
        now = self._training.seconds
        if self._ends_at is None:
            self._ends_at, self._next_at = now + self._how.storm_seconds, now + self._next[1]
        if now < self._next_at or now >= self._ends_at:
            return None
        fault, _ = self._next
        self._next = self._drawn()
        self._next_at = now + fault.lasts_seconds + self._next[1]
        lacking = fault.lacks(self._training)
        if lacking:
            self._say_once(f"a fault that cannot strike at its moment is left out: {lacking}.")
        return None if lacking else fault

    def _say_once(self, text: str) -> None:
        if text not in self._said:
            self._said.add(text)
            self._say(text)
