"""Limits on bytes and requests a second: for links that others need, and stores that refuse the impatient."""

from __future__ import annotations

import re
import threading
import time
from collections.abc import Callable

from holdfast.domain.quantities import parse_bytes
from holdfast.errors import UsageError

_REQUESTS = re.compile(r"(\d+(?:\.\d+)?)/s")


class Pace:
    """Spreads what is sent or asked, by whatever thread, so that it stays below a rate.

    Parameters
    ----------
    per_second : float
        Bytes, or requests.
    """

    def __init__(
        self,
        per_second: float,
        now: Callable[[], float] = time.monotonic,
        sleep: Callable[[float], None] = time.sleep,
    ) -> None:
        self._per_second = per_second
        self._now = now
        self._sleep = sleep
        self._free_at_seconds = 0.0
        self._lock = threading.Lock()

    def wait(self, count: int) -> None:
        """Return when so many may leave: after those before have had their time."""
        with self._lock:
            now = self._now()
            start = max(now, self._free_at_seconds)
            self._free_at_seconds = start + count / self._per_second
        if start > now:
            self._sleep(start - now)


def parse_rate(text: str) -> float:
    """Bytes per second of a text such as ``20MB/s``.

    Raises
    ------
    UsageError
        It is no such text.
    """
    rate = parse_bytes(text.strip().removesuffix("/s"))
    if not rate:
        raise UsageError(f"{text!r} is no rate.", do="Write for example '20MB/s'.")
    return float(rate)


def parse_requests(text: str) -> float:
    """Requests per second of a text such as ``100/s``.

    Raises
    ------
    UsageError
        It is no such text.
    """
    found = _REQUESTS.fullmatch(text.strip())
    if found is None or float(found[1]) <= 0:
        raise UsageError(f"{text!r} is no number of requests.", do="Write for example '100/s'.")
    return float(found[1])
