"""Events as lines of JSON, for programs: one shape, whichever process writes them."""

from __future__ import annotations

import json
import math
import re
from collections.abc import Mapping
from typing import Any

import msgspec

from holdfast.domain.events import Event, Found, Rejected, SaveFailed, UploadFailed, Warned

LONGEST_TEXT = 2000
MOST_ENTRIES = 100
_WORSE = (Found, Rejected, SaveFailed, UploadFailed, Warned)
_LEFT_OUT = frozenset({"run", "config"})
"""What a script gives as configuration is in the manifests, where it can be sealed."""
_WORD = re.compile(r"(?<!^)(?=[A-Z])")


class Writer(msgspec.Struct, frozen=True):
    """Who writes.

    Attributes
    ----------
    process : str
        ``trainer``, ``agent`` or ``supervisor``.
    trace : str or None
        The same for all processes below one supervisor.
    """

    process: str
    host: str
    pid: int
    trace: str | None = None


def name_of(event: Event) -> str:
    """``SaveFailed`` is ``save_failed``."""
    return _WORD.sub("_", type(event).__name__).lower()


def line(event: Event, writer: Writer, attempt: str | None, now_seconds: float) -> bytes:
    """One event as a line: when, what, who, then its own fields, then the sentence for people.

    Parameters
    ----------
    attempt : str or None
        For an event that names none itself.
    """
    told = {
        "time": now_seconds,
        "event": name_of(event),
        "level": "warning" if isinstance(event, _WORSE) else "info",
        "run": event.run or None,
        "attempt": attempt,
        **msgspec.structs.asdict(writer),
    }
    own = {
        key: value for key, value in msgspec.structs.asdict(event).items() if key not in {"run", *_LEFT_OUT}
    }
    fields = {key: _plain(value) for key, value in (told | own).items()}
    return json.dumps(fields | {"message": str(event)[:LONGEST_TEXT]}).encode() + b"\n"


def attempt_of(event: Event) -> str | None:
    """The attempt that an event names."""
    return getattr(event, "attempt", "") or None


def _plain(value: Any) -> Any:
    """What JSON has; a tensor of a device is not waited for, and NaN is no JSON."""
    if isinstance(value, float):
        return value if math.isfinite(value) else str(value)
    if value is None or isinstance(value, bool | int):
        return value
    if isinstance(value, str):
        return value[:LONGEST_TEXT]
    if isinstance(value, msgspec.Struct):
        return _plain(msgspec.structs.asdict(value))
    if isinstance(value, Mapping):
        return {str(key): _plain(one) for key, one in list(value.items())[:MOST_ENTRIES]}
    return [_plain(one) for one in value[:MOST_ENTRIES]] if isinstance(value, list | tuple) else None
