"""How long a trainer may be silent, and how long it has been: progress decides, not the clock alone."""

from __future__ import annotations

from collections.abc import Callable

import msgspec

from holdfast.node.pulse import Phase, Seen

TICK_SECONDS = 2.0
"""A longer time between two looks is no silence of the trainer: this process was stopped itself, or busy."""
_CONFIRMED_AFTER = 1.25
_SPINNING_AFTER = 2.5
_DEBUGGERS = ("/pdb.py", "/bdb.py", "pydevd", "debugpy")


class Bounds(msgspec.Struct, frozen=True, kw_only=True):
    """What a deadline is made of.

    Attributes
    ----------
    factor : float
        How many times the longest step so far.
    least_seconds : float
        No step is late before that.
    slow_seconds : float
        For what happens rarely and takes long: starting, compiling, evaluating, saving, ending.
    """

    factor: float = 10.0
    least_seconds: float = 300.0
    slow_seconds: float = 3600.0


def deadline_seconds(seen: Seen, bounds: Bounds) -> float:
    """For how long nothing may be seen of a trainer that is at this."""
    longest = seen.longest_seconds[seen.phase]
    if seen.phase is Phase.STEPPING:
        return max(bounds.least_seconds, bounds.factor * longest)
    return max(bounds.slow_seconds, bounds.factor * longest)


class Silence:
    """Adds up the time in which nothing moved, as far as it was the trainer's own fault."""

    def __init__(self, now_seconds: float) -> None:
        self._looked = now_seconds
        self._last: tuple[int, Phase] | None = None
        self.seconds = 0.0

    def look(self, seen: Seen, now_seconds: float, is_paused: Callable[[], bool]) -> float:
        """Take note of the page; returns how long it has been as it is."""
        passed, self._looked = min(now_seconds - self._looked, TICK_SECONDS), now_seconds
        if (seen.beats, seen.phase) != self._last:
            self._last, self.seconds = (seen.beats, seen.phase), 0.0
        elif not is_paused():
            self.seconds += passed
        return self.seconds


class Suspicion:
    """Whether a silent trainer hangs: its threads are looked at twice before anybody says so.

    What is at the same place both times hangs. What moves on between them (a long evaluation in a loop of the
    script's own) is given more time, but not for ever: a wait may be a loop, too.
    """

    def __init__(self) -> None:
        self._first: str | None = None

    def wants_stacks(self, silent_seconds: float, deadline: float) -> bool:
        """Whether it is time to look at the threads."""
        if silent_seconds < deadline:
            self._first = None
            return False
        return self._first is None or silent_seconds >= deadline * _CONFIRMED_AFTER

    def hangs(self, silent_seconds: float, deadline: float, stacks: str) -> bool:
        """Judge by where the threads are now; empty if that is not to be had."""
        if is_debugged(stacks):
            return False
        first, self._first = self._first, stacks
        if first is None and stacks:
            return False
        return not stacks or first == stacks or silent_seconds >= deadline * _SPINNING_AFTER


def is_debugged(stacks: str) -> bool:
    """Whether a person looks at it step by step."""
    return any(name in stacks for name in _DEBUGGERS)
