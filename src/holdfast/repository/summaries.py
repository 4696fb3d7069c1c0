"""Summaries of many checkpoints, read ahead by several threads, as each look at a storage is waited for."""

from __future__ import annotations

from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING

from holdfast.domain.manifest import Summary
from holdfast.domain.names import CheckpointId
from holdfast.errors import HoldfastError

if TYPE_CHECKING:
    from holdfast.repository.run import Run

THREADS = 4
FEWEST, MOST = 8, 512
"""Read at a time: few at first, as who asks for one may want no more."""


class Summaries:
    """Of these checkpoints of a run, each asked for once and about in their order."""

    def __init__(self, run: Run, checkpoints: Sequence[CheckpointId]) -> None:
        self._run = run
        self._checkpoints = checkpoints
        self._places = {checkpoint: place for place, checkpoint in enumerate(checkpoints)}
        self._next = FEWEST
        self._read: dict[CheckpointId, Summary | HoldfastError] = {}

    def of(self, checkpoint: CheckpointId) -> Summary:
        """The summary of one of them; raises as `Run.summary` does."""
        if checkpoint not in self._read:
            self._read_from(self._places[checkpoint])
        found = self._read.pop(checkpoint)
        if isinstance(found, HoldfastError):
            raise found
        return found

    def _read_from(self, place: int) -> None:
        batch = self._checkpoints[place : place + self._next]
        self._next = min(2 * self._next, MOST)
        parts = [batch[thread::THREADS] for thread in range(min(THREADS, len(batch)))]
        with ThreadPoolExecutor(len(parts)) as pool:
            for part, found in zip(parts, pool.map(self._part, parts), strict=True):
                self._read.update(zip(part, found, strict=True))

    def _part(self, checkpoints: Sequence[CheckpointId]) -> list[Summary | HoldfastError]:
        return [self._one(checkpoint) for checkpoint in checkpoints]

    def _one(self, checkpoint: CheckpointId) -> Summary | HoldfastError:
        try:
            return self._run.summary(checkpoint)
        except HoldfastError as error:
            return error
