"""Numbers with names and labels, and their text as Prometheus reads it."""

from __future__ import annotations

import math
import threading
from collections.abc import Iterator, Mapping, Sequence

import msgspec

CONTENT_TYPE = "text/plain; version=0.0.4; charset=utf-8"
MOST_SERIES = 1000
"""Of one family: labels may come from a script."""
Labels = tuple[tuple[str, str], ...]


class Family(msgspec.Struct, frozen=True):
    """One metric, with all its labels.

    Attributes
    ----------
    name : str
        Without the prefix that all share.
    kind : {"counter", "gauge", "histogram"}
    help : str
    bounds : tuple[float, ...]
        Upper ends of a histogram's buckets.
    """

    name: str
    kind: str
    help: str
    bounds: tuple[float, ...] = ()


class _Buckets:
    """What a histogram has seen under one set of labels."""

    def __init__(self, bounds: Sequence[float]) -> None:
        self._bounds = (*bounds, math.inf)
        self._counts = [0] * len(self._bounds)
        self._sum = 0.0

    def add(self, value: float) -> None:
        self._sum += value
        for number, bound in enumerate(self._bounds):
            self._counts[number] += value <= bound

    def lines(self, name: str, labels: Labels) -> Iterator[str]:
        for bound, count in zip(self._bounds, self._counts, strict=True):
            yield _line(f"{name}_bucket", (*labels, ("le", _number(bound))), count)
        yield _line(f"{name}_sum", labels, self._sum)
        yield _line(f"{name}_count", labels, self._counts[-1])


class Series:
    """The present value of every metric; any thread may ask.

    Parameters
    ----------
    prefix : str
        Of every name.
    families : sequence of Family
    """

    def __init__(self, prefix: str, families: Sequence[Family]) -> None:
        self._prefix = prefix
        self._families = {family.name: family for family in families}
        self._values: dict[str, dict[Labels, float]] = {family.name: {} for family in families}
        self._buckets: dict[str, dict[Labels, _Buckets]] = {family.name: {} for family in families}
        self._lock = threading.Lock()

    def set(self, name: str, value: float | None, labels: Mapping[str, str]) -> None:
        """What it is now; None: nothing is known any more."""
        with self._lock:
            values, key = self._values[name], _key(labels)
            if value is None:
                values.pop(key, None)
            elif key in values or len(values) < MOST_SERIES:
                values[key] = float(value)

    def add(self, name: str, amount: float, labels: Mapping[str, str]) -> None:
        """Count."""
        with self._lock:
            values, key = self._values[name], _key(labels)
            if key in values or len(values) < MOST_SERIES:
                values[key] = values.get(key, 0.0) + amount

    def observe(self, name: str, value: float, labels: Mapping[str, str]) -> None:
        """Add to a histogram."""
        with self._lock:
            found, bounds = self._buckets[name], self._families[name].bounds
            found.setdefault(_key(labels), _Buckets(bounds)).add(value)

    def text(self) -> str:
        """Everything, as the text format has it."""
        with self._lock:
            return "".join(f"{line}\n" for family in self._families.values() for line in self._lines(family))

    def _lines(self, family: Family) -> Iterator[str]:
        values, buckets = self._values[family.name], self._buckets[family.name]
        if not values and not buckets:
            return
        name = f"{self._prefix}_{family.name}"
        yield f"# HELP {name} {family.help}"
        yield f"# TYPE {name} {family.kind}"
        for labels, value in values.items():
            yield _line(name, labels, value)
        for labels, seen in buckets.items():
            yield from seen.lines(name, labels)


def _key(labels: Mapping[str, str]) -> Labels:
    return tuple(labels.items())


def _line(name: str, labels: Labels, value: float) -> str:
    inside = ",".join(f'{label}="{_escaped(text)}"' for label, text in labels)
    return f"{name}{{{inside}}} {_number(value)}"


def _escaped(text: str) -> str:
    return text.replace("\\", r"\\").replace('"', r"\"").replace("\n", r"\n")


def _number(value: float) -> str:
    if math.isinf(value):
        return "+Inf" if value > 0 else "-Inf"
    return "NaN" if math.isnan(value) else repr(int(value)) if value == int(value) else repr(value)
