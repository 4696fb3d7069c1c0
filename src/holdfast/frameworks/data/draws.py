"""The batches of indices of one pass, drawn from the user's sampler.

What is drawn runs ahead of what is delivered (workers prefetch), so a pass is resumed by
going back to its beginning and drawing the delivered batches of indices anew.
"""

from __future__ import annotations

import zlib
from collections import deque
from collections.abc import Callable, Iterator
from contextlib import suppress
from typing import Any, NamedTuple

from holdfast.frameworks import rng
from holdfast.frameworks.data.marked import Mark, Seeder, seed_globals

Wrap = Callable[[Any, Mark], Any]


class _Drawn(NamedTuple):
    indices: Any
    samples: int
    sampler: bytes | None


class Draws:
    """The batches of indices of one pass, in order; remembers those that are not delivered yet.

    Parameters
    ----------
    indices : Iterator
        Of the user's sampler.
    first : Mark
        Of the pass's first batch.
    samples : callable
        How many samples a batch of indices asks for.
    private : tuple of Seeder, optional
        For samplers that may draw from the global generators in mid-pass, where the training
        loop draws too: every batch but the first is then drawn from its own seed.
    sampler_state : callable, optional
        Reads the state of a sampler that keeps its own.
    """

    def __init__(
        self,
        indices: Iterator[Any],
        first: Mark,
        samples: Callable[[Any], int],
        private: tuple[Seeder, ...] | None,
        sampler_state: Callable[[], bytes] | None,
    ) -> None:
        self.delivered = 0
        self.samples = 0
        self.cut = False
        self.last: _Drawn | None = None
        self.after: bytes | None = None
        self.wrap: Wrap = lambda batch, mark: batch
        self._indices = indices
        self._mark = first
        self._samples = samples
        self._private = private
        self._sampler_state = sampler_state
        self._ahead: deque[_Drawn] = deque()
        self._ended = False
        self._flight: deque[_Drawn] = deque()
        self._lost = 0

    def _draw(self) -> _Drawn:
        try:
            batch = self._next() if self._private is None or self._mark.batch == 0 else self._next_private()
        except StopIteration:
            self._ended = True
            raise
        self._mark = self._mark._replace(batch=self._mark.batch + 1)
        return _Drawn(batch, self._samples(batch), self._sampler_state() if self._sampler_state else None)

    def _next(self) -> Any:
        return next(self._indices)

    def _next_private(self) -> Any:
        saved = rng.capture_rng()
        try:
            seed_globals(self._mark.entropy("indices"), self._private or ())
            return next(self._indices)
        finally:
            rng.restore_rng(saved)

    def jump(self, delivered: int, samples: int, after: bytes) -> None:
        """The sampler itself has gone to its position, the state ``after`` that many."""
        self.delivered, self.samples, self.after = delivered, samples, after
        self._mark = self._mark._replace(batch=delivered)

    def skip(self, samples: int) -> bool:
        """Draw until this many samples are behind; False if the sampler ends before."""
        while self.samples < samples:
            try:
                drawn = self._draw()
            except StopIteration:
                return False
            if self.samples + drawn.samples > samples:  # the batch size was changed: keep the tail
                cut = samples - self.samples
                self._ahead.append(_Drawn(list(drawn.indices)[cut:], drawn.samples - cut, drawn.sampler))
                self.samples, self.cut = samples, True
                return True
            self._count(drawn)
        return True

    def prime(self) -> bool:
        """Draw the next batch now, so that its randomness is drawn now; False if there is none."""
        if not self._ahead:
            try:
                self._ahead.append(self._draw())
            except StopIteration:
                return False
        return True

    def ahead(self) -> dict[str, Any]:
        """Plain: what is drawn and not delivered; what `draw_ahead` takes."""
        waiting = [drawn.indices for drawn in (*self._flight, *self._ahead)]
        return {
            "batches": len(waiting),
            "ended": self._ended,
            "check": zlib.crc32(repr(waiting).encode()),
        }

    def draw_ahead(self, saved: dict[str, Any]) -> bool:
        """Draw as far ahead as `ahead` says, so that the sampler stands where it stood; whether it does."""
        with suppress(StopIteration):
            while len(self._ahead) < saved["batches"] or (saved["ended"] and not self._ended):
                self._ahead.append(self._draw())
        return bool(self.ahead() == saved)

    def __iter__(self) -> Iterator[Any]:
        return self

    def __next__(self) -> Any:
        drawn = self._ahead.popleft() if self._ahead else self._draw()
        self._flight.append(drawn)
        return self.wrap(drawn.indices, self._mark._replace(batch=self.delivered + len(self._flight) - 1))

    def _count(self, drawn: _Drawn) -> None:
        self.delivered += 1
        self.samples += drawn.samples
        self.last, self.after = drawn, drawn.sampler

    def deliver(self) -> None:
        """The oldest batch in flight was handed out."""
        for _ in range(self._lost + 1):
            self._count(self._flight.popleft())
        self._lost = 0

    def lose(self) -> None:
        """Its loading raised: it counts with the next that is handed out, if there is one."""
        self._lost += 1

    def check(self) -> int | None:
        """Tells the last delivered batch of indices from others."""
        return None if self.last is None else zlib.crc32(repr(self.last.indices).encode())
