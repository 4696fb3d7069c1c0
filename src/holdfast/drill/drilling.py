"""One fault after the other, each into a training of its own; what each cost, and whether it ended exact."""

from __future__ import annotations

import random
import time
from collections.abc import Callable, Sequence
from functools import cache, partial

import msgspec

from holdfast.drill.comparing import Difference, Made, made
from holdfast.drill.course import Moment, Recovery, Strike, costs, recovery
from holdfast.drill.faults.base import Fault
from holdfast.drill.following import Following
from holdfast.drill.judging import Whole, judged, unended
from holdfast.drill.launching import Script, undisturbed
from holdfast.drill.supervised import Supervised, Way
from holdfast.errors import HoldfastError

EARLIEST, LATEST = 0.2, 0.7
"""Of the steps, where faults strike: before there is something to come back to, and something to do after."""


class Drill(Script, frozen=True, kw_only=True):
    """What is drilled, and how.

    Attributes
    ----------
    seed : int
        Of the steps at which faults strike.
    """

    way: Way
    seed: int = 0


class _Aim(msgspec.Struct, frozen=True):
    """When a fault strikes: after a step, by so much of a step's time."""

    step: int
    part: float


class Outcome(msgspec.Struct, frozen=True, kw_only=True):
    """What came of one fault.

    Attributes
    ----------
    fault, meaning : str
    strike : Strike or None
        None if it did not happen.
    recovery : Recovery or None
    compared : int
        How many checkpoints were.
    difference : Difference or None
        The first, from what the undisturbed training made.
    failure : str
        Why the training did not come to its end, or the fault did not happen.
    likely : str
        What is probably the matter.
    causes : list[str]
        Why the supervisor saw launches end.
    moments : list[Moment]
    seconds : float
        Of the whole training.
    """

    fault: str
    meaning: str
    strike: Strike | None = None
    recovery: Recovery | None = None
    compared: int = 0
    difference: Difference | None = None
    failure: str = ""
    likely: str = ""
    causes: list[str] = []
    moments: list[Moment] = []
    seconds: float = 0.0

    @property
    def exact(self) -> bool:
        return self.difference is None and not self.failure

    @property
    def costs(self) -> tuple[str, str, str]:
        """Where it struck, lost steps and seconds, as people read them."""
        return costs(self.strike, self.recovery)


class Report(msgspec.Struct, frozen=True, kw_only=True):
    """What came of all.

    Attributes
    ----------
    steps : int
        The last one.
    undisturbed_seconds : float
        Of a training to which nothing happens, saving every step.
    """

    command: tuple[str, ...]
    seed: int
    save: str
    run_flags: str
    steps: int
    undisturbed_seconds: float
    outcomes: list[Outcome]

    @property
    def held(self) -> bool:
        """Whether every training ended exact."""
        return all(outcome.exact for outcome in self.outcomes)


def drill(how: Drill, faults: Sequence[Fault], say: Callable[[str], None]) -> Report:
    """Run the script undisturbed, then once with each fault.

    Raises
    ------
    HoldfastError
        It fails although nothing happens to it, or it saves nothing.
    """
    began = time.monotonic()
    whole = undisturbed(how, "undisturbed")
    seconds, steps = time.monotonic() - began, {step for _, step in whole}
    last = max(steps)
    say(f"undisturbed: {len(steps)} steps saved, up to step {last}, in {seconds:.1f} s.")
    again = cache(partial(undisturbed, how, "again"))
    dice, say_once = random.Random(how.seed), cache(say)
    outcomes = []
    for fault in faults:
        target = dice.randint(max(2, int(last * EARLIEST)), max(2, int(last * LATEST)))
        outcomes.append(_outcome(how, fault, _Aim(target, dice.random()), whole, again, say_once))
        say(told(outcomes[-1]))
    return Report(
        command=how.command,
        seed=how.seed,
        save=how.way.save,
        run_flags=how.way.run_flags,
        steps=last,
        undisturbed_seconds=seconds,
        outcomes=outcomes,
    )


def told(outcome: Outcome) -> str:
    """One line for people."""
    if outcome.failure:
        return f"{outcome.fault}: {outcome.failure.partition(chr(10))[0]}"
    at = f" at step {outcome.strike.at.step}" if outcome.strike is not None else ""
    return f"{outcome.fault}{at}: {'exact' if outcome.exact else 'NOT exact'}."


def _outcome(
    how: Drill,
    fault: Fault,
    aim: _Aim,
    whole: Whole,
    again: Callable[[], Whole],
    say: Callable[[str], None],
) -> Outcome:
    training = Supervised(how, fault.name, how.way, [fault])
    course = _Once(how, training, fault, aim)
    failure, others, found, why = "", list[Made](), None, ""
    try:
        failure = course.why_not_well()
        others = list(made(training.repository, on_line=fault.spoils_state))
        found, why = judged(whole, others, again, say)
    except HoldfastError as error:
        failure = failure or str(error)
    finally:
        training.end()
    strike = course.strikes[0] if course.strikes else None
    return Outcome(
        fault=fault.name,
        meaning=fault.meaning,
        strike=strike,
        recovery=recovery(course.moments, strike) if strike is not None else None,
        compared=len(others),
        difference=found,
        failure=failure or unended(whole, others),
        likely=why,
        causes=[launch["cause"] for launch in training.report().get("launches", [])],
        moments=course.moments,
        seconds=training.seconds,
    )


class _Once(Following):
    """Lets one fault happen to a training."""

    def __init__(self, script: Script, training: Supervised, fault: Fault, aim: _Aim) -> None:
        super().__init__(script, training)
        self._fault = fault
        self._aim = aim
        self._lacking = ""

    def why_not_well(self) -> str:
        """Follow it; empty if it came to its end, and the fault happened."""
        code = self.follow()
        said = f"; it said:\n{self._training.scratch.said}" if code else ""
        if not self.strikes:
            why = f"the training was over before the fault could strike at step {self._aim.step}"
            return f"{why}: {self._lacking}{said}" if self._lacking else f"{why}{said}"
        return f"the training was given up with exit code {code}{said}" if code else ""

    def _due(self, moment: Moment) -> Fault | None:
        if self.strikes or moment.step < self._aim.step:
            return None
        if lacking := self._fault.lacks(self._training):
            self._lacking = self._lacking or lacking
            return None
        time.sleep(self._aim.part * self._training.step_seconds)
        return self._fault
