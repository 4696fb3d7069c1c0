"""Which checkpoints stay: a pure decision over those committed, oldest first.

Order is the order of commits as given, never a recorded time: a forged time may at most
decide which checkpoint of an hour is kept forever, not which one is newest.
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Iterable, Iterator, Sequence
from operator import index
from typing import Literal

import msgspec

from holdfast.errors import UsageError

Mode = Literal["min", "max"]

_EXAMPLES = (
    'Write for example "last 3", "last 3, best 2 val_loss min", "last 3, every 1000 steps", '
    '"last 3, then thin every 1000 steps" or "all".'
)
_HOUR_SECONDS = 3600


class Kept(msgspec.Struct, frozen=True, kw_only=True):
    """A committed checkpoint, as far as retention cares.

    Attributes
    ----------
    id : str
        Names it in the `Decision`.
    saved_seconds : float
        Recorded time, of a thin one that of the full one it stands for; only ``every_hours``
        looks at it.
    kind : {"full", "thin"}
        A thin one holds the model only: nothing can be resumed from it.
    tags : bool
        Somebody named it.
    healthy : bool
        Marked healthy: training went on well from it.
    superseded : bool
        A newer checkpoint of the same step and attempt exists.
    protected : bool
        An attempt's base, being read, or otherwise needed now.
    on_line : bool
        It leads to the run's head; others are dead branches, which are never best.
    """

    id: str
    step: int
    epoch: int
    saved_seconds: float
    kind: Literal["full", "thin"] = "full"
    metrics: dict[str, float] = {}
    tags: bool = False
    healthy: bool = False
    superseded: bool = False
    protected: bool = False
    on_line: bool = True


class Decision(msgspec.Struct, frozen=True):
    """What becomes of every checkpoint: each id is in exactly one of these, in order of commits.

    Attributes
    ----------
    keep : tuple[str, ...]
        Stays as it is.
    thin : tuple[str, ...]
        Full now; to be replaced by a thin one.
    drop : tuple[str, ...]
        May go.
    """

    keep: tuple[str, ...]
    thin: tuple[str, ...]
    drop: tuple[str, ...]


class KeepRule(msgspec.Struct, frozen=True, kw_only=True):
    """What to keep; made by `keep` or `parse`, and written by `str` as `parse` reads it.

    Attributes
    ----------
    last : int or None
        How many of the newest full ones; None keeps everything.
    best : int
        How many of the best by ``monitor``.
    every_steps, every_epochs, every_hours
        Forever: the first checkpoint at or after each multiple.
    thin : bool
        Those kept forever, or all older ones where no ``every_`` is given, become thin.
    """

    last: int | None = 1
    best: int = 0
    monitor: str = ""
    mode: Mode = "min"
    every_steps: int | None = None
    every_epochs: int | None = None
    every_hours: float | None = None
    thin: bool = False

    def __str__(self) -> str:
        if self.last is None:
            return "all"
        parts = [f"last {self.last}"]
        if self.best:
            parts.append(f"best {self.best} {self.monitor} {self.mode}")
        units = (("step", self.every_steps), ("epoch", self.every_epochs), ("hour", self.every_hours))
        every = [f"every {_number(n)} {unit}{'' if n == 1 else 's'}" for unit, n in units if n is not None]
        return ", ".join(parts + _with_thin(every) if self.thin else parts + every)


def _number(value: float) -> str:
    return str(int(value)) if value == int(value) else repr(value)


def _with_thin(every: list[str]) -> list[str]:
    return [" ".join(["then thin", *every[:1]]), *every[1:]]


def keep(
    *,
    last: int | None = None,
    best: int = 0,
    monitor: str | None = None,
    mode: Mode = "min",
    every_steps: int | None = None,
    every_epochs: int | None = None,
    every_hours: float | None = None,
    thin: bool = False,
) -> KeepRule:
    """Say which checkpoints to keep; tagged ones and what a resume may need always stay.

    Parameters
    ----------
    last : int, optional
        The newest so many; 1 if something else is given.
    best : int, optional
        The best so many by ``monitor``; ``mode`` says whether small or large is good.
    every_steps, every_epochs, every_hours : optional
        Forever: the first checkpoint at or after each multiple.
    thin : bool, optional
        Of those beyond ``last`` that an ``every_`` keeps (of all older ones where there is
        none), keep the model and drop the rest. The best and the tagged stay full.

    Raises
    ------
    UsageError
        Nothing was given, or something that makes no sense.
    """
    if not (last or best or every_steps or every_epochs or every_hours or thin) or last == 0:
        raise UsageError("keep() would keep nothing.", do=_EXAMPLES)
    if bool(best) != bool(monitor):
        raise UsageError(
            "keep() needs best= and monitor= together.", do='Write keep(best=2, monitor="val_loss").'
        )
    if mode not in ("min", "max"):
        raise UsageError(f"mode={mode!r} is neither 'min' nor 'max'.", do=_EXAMPLES)
    if monitor is not None and (monitor != " ".join(monitor.split()) or "," in monitor):
        raise UsageError(
            f"The metric's name {monitor!r} holds a comma or odd spaces.", do="Give it a plainer name."
        )
    return KeepRule(
        last=1 if last is None else _count(last, "last"),
        best=_count(best, "best") if best else 0,
        monitor=monitor or "",
        mode=mode,
        every_steps=None if every_steps is None else _count(every_steps, "every_steps"),
        every_epochs=None if every_epochs is None else _count(every_epochs, "every_epochs"),
        every_hours=None if every_hours is None else _hours(every_hours),
        thin=bool(thin),
    )


_LAST = re.compile(r"last\s+(\d+)", re.IGNORECASE)
_BEST = re.compile(r"best\s+(\d+)\s+(.+?)(?:\s+(min|max))?", re.IGNORECASE)
_EVERY = re.compile(
    r"(?P<thin>(?:then\s+)?thin\s*)?(?:\bevery\s+(?P<number>\d+(?:\.\d+)?(?:e[+-]?\d+)?)?\s*"
    r"(?P<unit>step|epoch|hour)s?)?",
    re.IGNORECASE,
)


def parse(rule: KeepRule | str) -> KeepRule:
    """Turn what ``keep=`` was given into a rule.

    Raises
    ------
    UsageError
        The text is no rule.
    """
    if isinstance(rule, KeepRule):
        return rule
    if not isinstance(rule, str):
        raise UsageError(f"A keep rule cannot be a {type(rule).__name__}.", do=_EXAMPLES)
    if rule.strip().lower() == "all":
        return KeepRule(last=None)
    options: dict[str, int | float | str | bool] = {}
    for part in rule.split(","):
        for name, value in _parse_one(part.strip(), rule):
            if name in options and name != "thin":
                raise UsageError(f"{rule!r} says {name.replace('_', ' ')} twice.", do=_EXAMPLES)
            options[name] = value
    if 0 in options.values():
        raise UsageError(f"{rule!r} holds a number that is not above zero.", do=_EXAMPLES)
    return keep(**options)  # type: ignore[arg-type]  # names and types come from the patterns


def _parse_one(part: str, whole: str) -> Iterator[tuple[str, int | float | str | bool]]:
    if found := _LAST.fullmatch(part):
        yield "last", int(found[1])
    elif found := _BEST.fullmatch(part):
        if " " in found[2] and not found[3]:  # more likely a mistaken mode than a metric's name
            raise UsageError(f"{whole!r} does not end {part!r} with 'min' or 'max'.", do=_EXAMPLES)
        yield from (("best", int(found[1])), ("monitor", found[2]), ("mode", (found[3] or "min").lower()))
    elif part and (found := _EVERY.fullmatch(part)):
        if found["thin"]:
            yield "thin", True
        if found["unit"]:
            yield _every(found["number"] or "1", found["unit"].lower(), whole)
    else:
        raise UsageError(f"{whole!r} is no keep rule.", do=_EXAMPLES)


def _every(number: str, unit: str, whole: str) -> tuple[str, int | float]:
    if unit == "hour":
        return "every_hours", float(number)
    if not number.isdigit():
        raise UsageError(f"{whole!r} is no keep rule.", do=_EXAMPLES)
    return f"every_{unit}s", int(number)


def decide(rule: KeepRule, checkpoints: Sequence[Kept]) -> Decision:
    """Decide what stays, what is thinned and what may go.

    Parameters
    ----------
    rule : KeepRule
        What was asked for.
    checkpoints : sequence of Kept
        Committed, unrejected ones of one run, in order of commits, oldest first.

    Notes
    -----
    Whatever the rule, these stay as they are: the newest full one, the newest full one
    marked healthy and the full one before it, the tagged and the protected.
    """
    whole = _untouchable(checkpoints) | _asked_whole(rule, checkpoints)
    forever = _kept_forever(rule, checkpoints)
    keeps, thins, drops = [], [], []
    for position, kept in enumerate(checkpoints):
        if position in whole or (position in forever and not (rule.thin and kept.kind == "full")):
            keeps.append(kept.id)
        elif position in forever:
            thins.append(kept.id)
        else:
            drops.append(kept.id)
    return Decision(tuple(keeps), tuple(thins), tuple(drops))


def _untouchable(checkpoints: Sequence[Kept]) -> set[int]:
    fulls = [i for i, c in enumerate(checkpoints) if c.kind == "full"]
    result = {i for i, c in enumerate(checkpoints) if c.tags or c.protected} | set(fulls[-1:])
    healthy = next((i for i in reversed(fulls) if checkpoints[i].healthy), None)
    if healthy is not None:
        before = [i for i in fulls if i < healthy]
        distinct = [i for i in before if not checkpoints[i].superseded]
        result |= {healthy, *(distinct or before)[-1:]}
    return result


def _asked_whole(rule: KeepRule, checkpoints: Sequence[Kept]) -> set[int]:
    if rule.last is None:
        return set(range(len(checkpoints)))
    fulls = [i for i, c in enumerate(checkpoints) if c.kind == "full" and not c.superseded]
    return {*fulls[-rule.last :], *_best_positions(checkpoints, rule.monitor, rule.mode, rule.best)}


def _kept_forever(rule: KeepRule, checkpoints: Sequence[Kept]) -> set[int]:
    steps, epochs, hours = rule.every_steps, rule.every_epochs, rule.every_hours
    result: set[int] = set()
    if steps is not None:
        result |= _firsts(rule, checkpoints, lambda c: c.step // steps)
    if epochs is not None:
        result |= _firsts(rule, checkpoints, lambda c: c.epoch // epochs)
    if hours is not None:
        result |= _firsts(rule, checkpoints, lambda c: _period(c.saved_seconds, hours * _HOUR_SECONDS))
    if rule.thin and steps is epochs is hours is None:
        result = {i for i, c in enumerate(checkpoints) if not c.superseded}
    return result


def _period(saved_seconds: float, period_seconds: float) -> float:
    return saved_seconds // period_seconds if math.isfinite(saved_seconds) else 0


def _firsts(rule: KeepRule, checkpoints: Sequence[Kept], period: Callable[[Kept], float]) -> set[int]:
    """Take the lowest step of every period; of several the highest epoch, then the newest.

    One on the line comes before all others. It may be a thin one, if the rule wants thin ones; else a full
    one comes before it.

    By step, not by position: a thin one is committed long after the full one it stands for.
    """
    result: dict[float, int] = {}
    for position, kept in enumerate(checkpoints):
        number = period(kept)
        if number >= 1 and not kept.superseded:
            first = checkpoints[result.setdefault(number, position)]
            if _precedence(rule, kept) <= _precedence(rule, first):
                result[number] = position
    return set(result.values())


def _precedence(rule: KeepRule, kept: Kept) -> tuple[bool, int, int, bool]:
    return not kept.on_line, kept.step, -kept.epoch, kept.kind == "thin" and not rule.thin


def best(checkpoints: Sequence[Kept], monitor: str, mode: Mode, k: int) -> list[Kept]:
    """Rank the best ``k`` by a metric, best first; of equal ones the older.

    Checkpoints without the metric, whose value is not finite, or of dead branches are never among them.
    """
    return [checkpoints[i] for i in _best_positions(checkpoints, monitor, mode, k)]


def _best_positions(checkpoints: Sequence[Kept], monitor: str, mode: Mode, k: int) -> list[int]:
    ranked = sorted(
        (_rank(c.metrics[monitor], mode), i)
        for i, c in enumerate(checkpoints)
        if c.on_line and not c.superseded and math.isfinite(c.metrics.get(monitor, math.nan))
    )
    return [i for _, i in ranked[:k]]


def is_improvement(value: float, earlier: Iterable[float], mode: Mode, k: int = 1) -> bool:
    """Whether ``value`` would be among the best ``k``; equalling one of them is no improvement."""
    if not math.isfinite(value):
        return False
    mine = _rank(value, mode)
    return sum(_rank(other, mode) <= mine for other in earlier if math.isfinite(other)) < k


def _rank(value: float, mode: Mode) -> float:
    return value if mode == "min" else -value


def _count(value: int, name: str) -> int:
    try:
        count = index(value)
    except TypeError:
        count = 0
    if count < 1:
        raise UsageError(f"keep({name}={value!r}) needs a whole number above zero.", do=_EXAMPLES)
    return count


def _hours(value: float) -> float:
    hours = float(value)
    if not (math.isfinite(hours) and hours > 0):
        raise UsageError(f"keep(every_hours={value!r}) needs a number above zero.", do=_EXAMPLES)
    return hours
