"""Whether training goes well: detectors with bounded memory, from numbers to findings.

Each tells of one episode once, and again only after it was over for a while.
"""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Iterable

import msgspec

from holdfast.domain.usual import Usual, Window, usual

SIGMAS = 3.0
IN_A_ROW = 3
"""One value beyond three sigma is a hard batch; three in a row by chance come once in 400 million."""
QUIET_VALUES = 100
"""So many good values end an episode."""


class Finding(msgspec.Struct, frozen=True):
    """Something about the health of training: its kind, which rules name, and what was seen."""

    kind: str
    detail: str


def upper(known: Usual) -> float:
    """What lies above that is far above what is usual."""
    return known.center + SIGMAS * known.sigma


class Episode:
    """Lets the first of a row of signs through, and none until they have been away for long enough."""

    def __init__(self, quiet_values: int = QUIET_VALUES) -> None:
        self._quiet_values = quiet_values
        self._quiet = quiet_values

    def begins(self, sign: bool) -> bool:
        """Take one value's sign; whether an episode begins with it."""
        was_quiet = self._quiet >= self._quiet_values
        self._quiet = 0 if sign else self._quiet + 1
        return sign and was_quiet


class Heights:
    """Finds values that stay far above what is usual, or are not finite.

    Parameters
    ----------
    name : str
        Of what is watched, for people.
    kind : str
        Of the finding for values that are too high.
    not_finite : int
        How many in a row that are not finite are a finding: single ones are normal in scaled gradients.
    known : iterable of float
        Values from before.
    """

    def __init__(self, name: str, kind: str, *, not_finite: int = 1, known: Iterable[float] = ()) -> None:
        self._name = name
        self._kind = kind
        self._limit = not_finite
        self._window = Window(known)
        self._high = self._not_finite = 0
        self._rise, self._break = Episode(), Episode()

    def newest(self, count: int) -> list[float]:
        """So many of the last finite values."""
        return self._window.newest(count)

    def take(self, value: float, expected: Usual | None = None) -> Finding | None:
        """Take the next value, which is held against what is expected, or else against what is usual."""
        if not math.isfinite(value):
            self._not_finite += 1
            begins = self._break.begins(self._not_finite >= self._limit)
            return Finding("not-finite", f"the {self._name} is {value}") if begins else None
        self._not_finite = 0
        self._break.begins(False)
        known = expected if expected is not None else self._window.usual
        self._window.add(value)
        return self._compare(value, known) if known is not None else None

    def _compare(self, value: float, known: Usual) -> Finding | None:
        self._high = self._high + 1 if value > upper(known) else 0
        if not self._rise.begins(self._high >= IN_A_ROW):
            return None
        return Finding(
            self._kind, f"the {self._name} is {value:.4g}, {IN_A_ROW} times in a row far above {known}"
        )


BLOCK_VALUES = 100
LEAST_BLOCKS = 20


class Plateau:
    """Finds a loss that has got no better for as long again as it took to get there.

    Medians of blocks are compared; better is what is lower by three sigma of such a median.
    """

    def __init__(self) -> None:
        self._block: list[float] = []
        self._blocks = self._best_block = 0
        self._best = math.inf
        self._told = False

    def take(self, loss: float) -> Finding | None:
        """Take the next loss."""
        if math.isfinite(loss):
            self._block.append(loss)
        if len(self._block) < BLOCK_VALUES:
            return None
        seen, self._block = usual(self._block), []
        self._blocks += 1
        if seen.center < self._best - SIGMAS * _noise_of_median(seen):
            self._best, self._best_block, self._told = seen.center, self._blocks, False
        return self._judge()

    def _judge(self) -> Finding | None:
        since = self._blocks - self._best_block
        if self._told or since < max(LEAST_BLOCKS, self._best_block):
            return None
        self._told = True
        steps = since * BLOCK_VALUES
        return Finding("plateau", f"the loss has not got below {self._best:.4g} for {steps} steps")


def _noise_of_median(seen: Usual) -> float:
    return 1.2533 * seen.sigma / math.sqrt(BLOCK_VALUES)


SLOW_FACTOR = 4.0
LEAST_SECONDS = 0.1
RECENT = 20


class Pace:
    """Finds steps that take several times what they took: half of the newest twenty."""

    def __init__(self) -> None:
        self._window = Window()
        self._slow: deque[bool] = deque(maxlen=RECENT)
        self._episode = Episode()

    def take(self, seconds: float) -> Finding | None:
        """Take the time from one step to the next."""
        known = self._window.usual
        self._window.add(seconds)
        if known is None:
            return None
        self._slow.append(seconds > max(SLOW_FACTOR * known.center, known.center + LEAST_SECONDS))
        if not self._episode.begins(sum(self._slow) >= RECENT // 2):
            return None
        return Finding("slow", f"a step takes {seconds:.3g} s; it took {known.center:.3g} s")


ENOUGH_TIMED = 12
"""Data parallel modules time their first steps, then only one in a hundred."""


class Collectives:
    """Finds steps that wait for other ranks several times as long as they did: three timed ones in a row."""

    def __init__(self) -> None:
        self._window = Window(enough=ENOUGH_TIMED)
        self._step = -1
        self._long = 0
        self._episode = Episode()

    def take(self, step: int, seconds: float) -> Finding | None:
        """Take what the collectives of a step took; one that was taken before changes nothing."""
        if step == self._step:
            return None
        self._step = step
        known = self._window.usual
        self._window.add(seconds)
        if known is None:
            return None
        is_long = seconds > max(SLOW_FACTOR * known.center, known.center + LEAST_SECONDS)
        self._long = self._long + 1 if is_long else 0
        if not self._episode.begins(self._long >= IN_A_ROW):
            return None
        took = f"a step spends {seconds:.3g} s in collectives; it was {known.center:.3g} s"
        return Finding("collectives", f"{took}: another rank is slow, or the network")
