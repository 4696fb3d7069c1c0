"""When to save: pure rules, from what a run looks like now to a reason to save, or none."""

from __future__ import annotations

import math
import re
from collections.abc import Sequence
from operator import index
from typing import Protocol

import msgspec

from holdfast.domain.failures import NOTHING_SEEN, Reliability
from holdfast.domain.intervals import Bounds, Choice, choose
from holdfast.errors import UsageError

_EXAMPLES = (
    'Write for example "every 100 steps", "every 10 minutes", "every 1 epoch", "best", "auto", '
    '"save 900 1, 300 10", "memory every 1 step, disk every 100 steps", or several joined by " | ".'
)
_MINUTE_SECONDS = 60
_HOUR_SECONDS = 3600


class Observation(msgspec.Struct, frozen=True, kw_only=True):
    """What a run looks like at a safe point.

    Attributes
    ----------
    step, epoch : int
        Where the run is.
    saved_step, saved_epoch : int
        Where it was at the last save, or where it was restored; 0 before any.
    seconds_since_save : float
        Since the last save, or since this attempt started.
    save_seconds : float or None
        What a save costs training, by the last ones; None before the first of this attempt.
    started_seconds_ago : float
        Age of this attempt.
    improved : bool
        A monitored metric reported since the last save is among the best.
    notable : str or None
        What happened in learning since the last save: a metric improved, a schedule changed.
    reliability : Reliability
        Failures of the run so far, and the time in which they came.
    """

    step: int
    epoch: int
    saved_step: int
    saved_epoch: int
    seconds_since_save: float
    save_seconds: float | None
    started_seconds_ago: float
    improved: bool = False
    notable: str | None = None
    reliability: Reliability = NOTHING_SEEN

    @property
    def moved(self) -> bool:
        """Whether there is anything new to save."""
        return (self.step, self.epoch) != (self.saved_step, self.saved_epoch)


class SaveRule(Protocol):
    """Anything that can say whether a save is due."""

    def due(self, seen: Observation, /) -> str | None:
        """Give the reason to save now, or None."""
        ...


class Rule(msgspec.Struct, frozen=True):
    """Base of the rules here: joined by ``|``, and written by `str` as `parse` reads them."""

    def due(self, seen: Observation, /) -> str | None:
        return str(self) if self._holds(seen) else None

    def _holds(self, seen: Observation) -> bool:
        raise NotImplementedError

    def __or__(self, other: SaveRule | str) -> Rule:
        return any_of(self, parse(other))

    def __ror__(self, other: SaveRule | str) -> Rule:
        return any_of(parse(other), self)

    def in_memory(self) -> Rule:
        """By this rule, hold a snapshot in memory instead of saving."""
        return InMemory(self)


class EverySteps(Rule, frozen=True):
    """At every multiple of ``steps``, or at the first safe point after one."""

    steps: int

    def _holds(self, seen: Observation) -> bool:
        return seen.step // self.steps > seen.saved_step // self.steps

    def __str__(self) -> str:
        return _every(self.steps, "step")


class EveryEpochs(Rule, frozen=True):
    """At every multiple of ``epochs``, or at the first safe point after one."""

    epochs: int

    def _holds(self, seen: Observation) -> bool:
        return seen.epoch // self.epochs > seen.saved_epoch // self.epochs

    def __str__(self) -> str:
        return _every(self.epochs, "epoch")


class EverySeconds(Rule, frozen=True):
    """When the last save is ``seconds`` old and there is something new to save."""

    seconds: float

    def _holds(self, seen: Observation) -> bool:
        return seen.moved and seen.seconds_since_save >= self.seconds

    def __str__(self) -> str:
        for unit, size_seconds in (("hour", _HOUR_SECONDS), ("minute", _MINUTE_SECONDS), ("second", 1)):
            whole = int(self.seconds // size_seconds)
            if float(whole) * size_seconds == self.seconds:
                return _every(whole, unit)
        return f"every {self.seconds!r} seconds"


class Auto(Rule, frozen=True):
    """Lose least time to saves and failures together: see `holdfast.domain.intervals`.

    At most 1 % of the time goes into saving, but a save comes at least every 30 minutes. The first
    comes early, so that the cost is known. However cheap a save is, two are never closer than
    ``least_seconds``. What is notable brings a save forward, as far as the cost allows.
    """

    share: float = 0.01
    least_seconds: float = 10.0
    most_seconds: float = 1800.0

    def due(self, seen: Observation, /) -> str | None:
        waited_seconds = min(seen.seconds_since_save, seen.started_seconds_ago)
        if not seen.moved or waited_seconds < self.least_seconds:
            return None
        choice = self.choice(seen.save_seconds, seen.reliability)
        if choice is None or waited_seconds >= choice.interval_seconds:
            return str(self)
        soon = seen.notable is not None and waited_seconds >= choice.soonest_seconds
        return f"{self}: {seen.notable}" if soon else None

    def choice(self, save_seconds: float | None, reliability: Reliability) -> Choice | None:
        """The interval for such a cost; None while the cost is unknown."""
        bounds = Bounds(self.share, self.least_seconds, self.most_seconds)
        return choose(save_seconds, reliability, bounds) if save_seconds is not None else None

    def __str__(self) -> str:
        return "auto"


def auto_of(rule: SaveRule | None) -> Auto | None:
    """The part of a rule that chooses by itself."""
    parts = any_of(rule).rules if rule is not None else ()
    return next((part for part in parts if isinstance(part, Auto)), None)


class Ladder(Rule, frozen=True):
    """After ``seconds`` if there were at least ``steps``, for any of several such rungs, as Redis has it."""

    rungs: tuple[tuple[int, int], ...]

    def _holds(self, seen: Observation) -> bool:
        new_steps = seen.step - seen.saved_step
        return any(seen.seconds_since_save >= seconds and new_steps >= steps for seconds, steps in self.rungs)

    def __str__(self) -> str:
        return "save " + ", ".join(f"{seconds} {steps}" for seconds, steps in self.rungs)


class OnImprovement(Rule, frozen=True):
    """When a monitored metric is among the best; also at a step that is already saved, without it."""

    def _holds(self, seen: Observation) -> bool:
        return seen.improved

    def __str__(self) -> str:
        return "best"


class AnyOf(Rule, frozen=True):
    """When any of ``rules`` says so; of none of them, never."""

    rules: tuple[SaveRule, ...] = ()

    def due(self, seen: Observation, /) -> str | None:
        return next((reason for rule in self.rules if (reason := rule.due(seen)) is not None), None)

    def __str__(self) -> str:
        return " | ".join(map(str, self.rules)) or "never"


class InMemory(Rule, frozen=True):
    """Hold a snapshot in memory when ``rule`` says so; asks for no save."""

    rule: SaveRule

    def _holds(self, seen: Observation) -> bool:
        return False

    def in_memory(self) -> Rule:
        return self

    def __str__(self) -> str:
        return f"memory {self.rule}"


def asks_for_best(rule: SaveRule) -> bool:
    """Whether any part of it waits for a metric to be among the best."""
    parts = [part for tier in tiers(rule) if tier is not None for part in any_of(tier).rules]
    return any(isinstance(part, OnImprovement) for part in parts)


def tiers(rule: SaveRule) -> tuple[SaveRule | None, SaveRule | None]:
    """Part a rule into what goes to the disk and what stays in memory; None for what is not asked for.

    If it speaks of memory only, the disk's part is `Auto`: memory does not outlive the machine.
    """
    parts = any_of(rule).rules
    on_disk = [part for part in parts if not isinstance(part, InMemory)]
    in_memory = [part.rule for part in parts if isinstance(part, InMemory)]
    return _one_of(on_disk) or (Auto() if in_memory else None), _one_of(in_memory)


def _one_of(rules: Sequence[SaveRule]) -> SaveRule | None:
    return any_of(*rules) if len(rules) > 1 else next(iter(rules), None)


def any_of(*rules: SaveRule) -> AnyOf:
    """Join rules into one, flat."""
    flat: list[SaveRule] = []
    for rule in rules:
        flat.extend(rule.rules if isinstance(rule, AnyOf) else [rule])
    return AnyOf(tuple(flat))


def every(
    *,
    steps: int | None = None,
    epochs: int | None = None,
    seconds: float | None = None,
    minutes: float | None = None,
    hours: float | None = None,
) -> Rule:
    """Save every so many steps, epochs or units of time; of several, whichever comes first.

    Parameters
    ----------
    steps, epochs : int, optional
        Save at their multiples.
    seconds, minutes, hours : float, optional
        One of them: the age of the last save at which another is due.

    Raises
    ------
    UsageError
        Nothing was given, a number is not above zero, or more than one unit of time was given.
    """
    times = [(seconds, 1), (minutes, _MINUTE_SECONDS), (hours, _HOUR_SECONDS)]
    given_times = [(value, size_seconds) for value, size_seconds in times if value is not None]
    if len(given_times) > 1:
        raise UsageError(
            "every() was given more than one unit of time.", do="Write for example every(minutes=90)."
        )
    rules: list[SaveRule] = []
    if steps is not None:
        rules.append(EverySteps(_count(steps, "steps")))
    if epochs is not None:
        rules.append(EveryEpochs(_count(epochs, "epochs")))
    rules += [EverySeconds(_seconds(value, size_seconds)) for value, size_seconds in given_times]
    if not rules:
        raise UsageError("every() was given nothing.", do="Write for example every(steps=100).")
    joined = any_of(*rules)
    first = joined.rules[0]
    return first if len(rules) == 1 and isinstance(first, Rule) else joined


def parse(rule: SaveRule | str | None) -> SaveRule:
    """Turn what ``save=`` was given into a rule; None never saves of itself.

    Raises
    ------
    UsageError
        The text is no rule.
    """
    if rule is None:
        return AnyOf()
    if not isinstance(rule, str):
        if callable(getattr(rule, "due", None)):
            return rule
        raise UsageError(f"A save rule cannot be a {type(rule).__name__}.", do=_EXAMPLES)
    parts = re.split(_BETWEEN, rule.strip(), flags=re.IGNORECASE)
    rules = [_parse_one(part, rule) for part in parts]
    return rules[0] if len(rules) == 1 else any_of(*rules)


_WORDS: dict[str, Rule] = {
    "auto": Auto(),
    "best": OnImprovement(),
    "on improvement": OnImprovement(),
    "never": AnyOf(),
}
_BETWEEN = r"\s*\|\s*|\s+or\s+|\s*,\s*(?=memory\s|disk\s)"
_EVERY = re.compile(
    r"(?:(?P<every>every)\s+)?(?:(?P<number>\d+(?:\.\d+)?(?:e[+-]?\d+)?)\s*)?"
    r"(?P<unit>steps?|epochs?|s|secs?|seconds?|m|mins?|minutes?|h|hours?)"
)
_LADDER = re.compile(r"save\s+(\d+\s+\d+(?:\s*,\s*\d+\s+\d+)*)")
_UNIT_SECONDS = {"s": 1, "m": _MINUTE_SECONDS, "h": _HOUR_SECONDS}


def _parse_one(text: str, whole: str) -> Rule:
    words = " ".join(text.lower().split())
    tier, _, rest = words.partition(" ")
    if tier in ("memory", "disk"):
        rule = _parse_one(rest, whole)
        return rule.in_memory() if tier == "memory" else rule
    if words in _WORDS:
        return _WORDS[words]
    if found := _LADDER.fullmatch(words):
        return _ladder(found[1], whole)
    found = _EVERY.fullmatch(words)
    if found is None or not (found["every"] or found["number"]):
        raise _nonsense(whole)
    return _parse_every(found["number"] or "1", found["unit"], whole)


def _parse_every(number: str, unit: str, whole: str) -> Rule:
    if unit.startswith(("step", "epoch")):
        if not number.isdigit():
            raise _nonsense(whole)
        return every(steps=int(number)) if unit.startswith("step") else every(epochs=int(number))
    return EverySeconds(_seconds(float(number), _UNIT_SECONDS[unit[0]]))


def _ladder(text: str, whole: str) -> Ladder:
    rungs = tuple((int(seconds), int(steps)) for seconds, steps in (r.split() for r in text.split(",")))
    if not all(seconds > 0 and steps > 0 for seconds, steps in rungs):
        raise _nonsense(whole)
    return Ladder(rungs)


def _nonsense(text: str) -> UsageError:
    return UsageError(f"{text!r} is no save rule.", do=_EXAMPLES)


def _every(number: int, unit: str) -> str:
    return f"every {number} {unit}{'' if number == 1 else 's'}"


def _count(value: int, name: str) -> int:
    try:
        count = index(value)
    except TypeError:
        count = 0
    if count < 1:
        raise UsageError(f"every({name}={value!r}) needs a whole number above zero.", do=_EXAMPLES)
    return count


def _seconds(value: float, size_seconds: int) -> float:
    seconds = float(value) * size_seconds
    if not (math.isfinite(seconds) and seconds > 0):
        raise UsageError(f"A save rule cannot wait {value!r}: it needs a time above zero.", do=_EXAMPLES)
    return seconds
