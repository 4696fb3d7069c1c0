"""Values as people read them."""

from __future__ import annotations

import math
import time
from collections.abc import Mapping

_UNITS = ("B", "KiB", "MiB", "GiB", "TiB", "PiB")


def clean(text: str) -> str:
    """Text without what would steer a terminal: names and reasons come from a repository."""
    if text.isprintable():
        return text
    return "".join(c if c.isprintable() or c == "\n" else repr(c)[1:-1] for c in text)


def size(size_bytes: float | None) -> str:
    """Bytes with a unit: ``1.5 GiB``."""
    if size_bytes is None:
        return "?"
    amount, power = float(size_bytes), 0
    while abs(amount) >= 1024 and power < len(_UNITS) - 1:
        amount, power = amount / 1024, power + 1
    return f"{amount:.{0 if power == 0 or amount >= 100 else 1}f} {_UNITS[power]}"


def duration(seconds: float) -> str:
    """A time span in its largest unit: ``42 s``, ``3 min``, ``5 h``, ``2 days``."""
    seconds = max(seconds, 0.0)
    for limit, length, unit in ((120, 1, "s"), (7200, 60, "min"), (172800, 3600, "h")):
        if seconds < limit:
            return f"{seconds / length:.0f} {unit}"
    return f"{seconds / 86400:.0f} days"


def age(then_seconds: float) -> str:
    """How long ago."""
    return f"{duration(time.time() - then_seconds)} ago" if math.isfinite(then_seconds) else "?"


def moment(seconds: float) -> str:
    """A recorded time in local time; an impossible one is shown as unknown."""
    try:
        return time.strftime("%Y-%m-%d %H:%M:%S", time.localtime(seconds))
    except (OverflowError, ValueError, OSError):
        return "?"


def number(value: float) -> str:
    """A metric, short."""
    return f"{value:.6g}"


def metrics(values: Mapping[str, float]) -> str:
    """Metrics on one line."""
    return "  ".join(f"{name}={number(value)}" for name, value in values.items())


def several(count: int, noun: str) -> str:
    """``1 checkpoint``, ``2 checkpoints``."""
    return f"{count} {noun}{'' if count == 1 else 's'}"
