"""Whether the GPUs of a training are well: from figures to findings."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import msgspec

from holdfast.domain.health import Episode, Finding
from holdfast.domain.usual import Window

FULL = 0.98
IDLE_SHARE = 0.25
LEAST_BUSY = 0.2
IDLE_LOOKS = 3
QUIET_LOOKS = 10


class Gpu(msgspec.Struct, frozen=True):
    """Figures of one GPU at one moment.

    Attributes
    ----------
    busy, full : float
        Shares of its time and of its memory.
    celsius : float
    limit_celsius : float or None
        Where it slows itself down, if it says so.
    uncorrected : int or None
        Memory errors that ECC could not correct, if it counts them.
    """

    name: str
    busy: float
    full: float
    celsius: float
    limit_celsius: float | None = None
    uncorrected: int | None = None


class GpuWatch:
    """Follows the figures of one GPU."""

    def __init__(self) -> None:
        self._usual = Window()
        self._idle = 0
        self._errors: int | None = None
        self._hot, self._full, self._idles = (Episode(QUIET_LOOKS) for _ in range(3))

    def take(self, gpu: Gpu) -> list[Finding]:
        """Take the next look at it."""
        return [Finding("gpu", f"{gpu.name} {what}") for what in self._signs(gpu)]

    def _signs(self, gpu: Gpu) -> Iterator[str]:
        if (more := self._new_errors(gpu)) > 0:
            yield f"had {more} memory errors that could not be corrected"
        if self._hot.begins(gpu.limit_celsius is not None and gpu.celsius >= gpu.limit_celsius):
            yield f"is {gpu.celsius:.0f} degrees hot and slows down"
        if self._full.begins(gpu.full >= FULL):
            yield f"has {gpu.full:.0%} of its memory in use"
        if self._idles.begins(self._is_idle(gpu)):
            yield f"is busy {gpu.busy:.0%} of the time, far less than before"

    def _new_errors(self, gpu: Gpu) -> int:
        before, self._errors = self._errors, gpu.uncorrected
        return gpu.uncorrected - before if gpu.uncorrected is not None and before is not None else 0

    def _is_idle(self, gpu: Gpu) -> bool:
        known = self._usual.usual
        self._usual.add(gpu.busy)
        is_low = known is not None and known.center >= LEAST_BUSY and gpu.busy <= IDLE_SHARE * known.center
        self._idle = self._idle + 1 if is_low else 0
        return self._idle >= IDLE_LOOKS


class GpuWatches:
    """Follows all of them, by their place in the list."""

    def __init__(self) -> None:
        self._watches: list[GpuWatch] = []

    def take(self, gpus: Sequence[Gpu]) -> list[Finding]:
        self._watches += [GpuWatch() for _ in gpus[len(self._watches) :]]
        pairs = zip(self._watches, gpus, strict=False)
        return [finding for watch, gpu in pairs for finding in watch.take(gpu)]
