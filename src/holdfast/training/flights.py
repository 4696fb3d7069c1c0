"""Snapshots on their way from a draft to a checkpoint, as the trainer sees them."""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Collection, Iterator

import msgspec

from holdfast.domain.manifest import Details
from holdfast.domain.names import CheckpointId
from holdfast.errors import HoldfastError, StorageError
from holdfast.node.arena import SnapshotRecord
from holdfast.node.messages import Done, Staged, revive
from holdfast.repository.commit import Draft
from holdfast.repository.persisting import Persister
from holdfast.repository.run import Run
from holdfast.training.placing import Layout
from holdfast.training.ways import Outcome

LONGEST_LOOK_SECONDS = 300.0
"""A longer time between two looks is no delay of the agent: the whole job was suspended, perhaps."""


class Flight(msgspec.Struct):
    """A snapshot: on its way to the disk, or the newest one in memory.

    Attributes
    ----------
    complete : bool
        Copied, and the agent's from now on.
    durable : bool
        It has become a checkpoint.
    waited_seconds : float
        For how long it has been waited for.
    """

    draft: Draft
    details: Details
    staged: Staged
    urgent: bool
    stall_seconds: float
    staged_at: float
    complete: bool = False
    durable: bool = False
    waited_seconds: float = 0.0

    @property
    def slot(self) -> int:
        return self.staged.slot


class Delays:
    """Adds up, look by look, how long flights are waited for."""

    def __init__(self) -> None:
        self._looked = time.monotonic()

    def overdue(self, flights: Collection[Flight], deadline_seconds: float) -> list[Flight]:
        """Those that were waited for longer than that."""
        now = time.monotonic()
        passed, self._looked = min(now - self._looked, LONGEST_LOOK_SECONDS), now
        for flight in flights:
            flight.waited_seconds += min(passed, now - flight.staged_at)
        return [flight for flight in flights if flight.waited_seconds > deadline_seconds]


def record_of(draft: Draft, details: Details, layout: Layout) -> bytes:
    """The table that follows the tensors in a slot."""
    record = SnapshotRecord(
        attempt=str(draft.attempt),
        sequence=draft.sequence,
        progress=draft.progress,
        reason=draft.reason,
        metrics=draft.metrics,
        done=draft.done,
        monitor=draft.monitor,
        tensors=layout.encoded,
        details=details,
        compared=draft.compared,
        unchanged_since=draft.unchanged_since,
    )
    return msgspec.msgpack.encode(record)


def committed(run: Run, attempt: str) -> dict[int, CheckpointId]:
    """What of an attempt is there, by sequence number."""
    try:
        own = [c for c in run.checkpoints() if str(c.attempt) == attempt]
    except HoldfastError:
        return {}  # what cannot be looked up is saved again, which does no harm
    return {c.sequence: c for c in own if c.kind == "full"}


def newest(run: Run, attempt: str) -> CheckpointId | None:
    """What an attempt has committed last, as far as that can be looked up."""
    mine = committed(run, attempt)
    return mine[max(mine)] if mine else None


def finish(flight: Flight, checkpoint: CheckpointId, persister: Persister) -> Outcome | None:
    """Do what an agent that died having committed a snapshot may have left undone; None if that fails."""
    try:
        untagged = persister.finish(checkpoint, flight.staged.tags)
    except HoldfastError:
        return None  # it is saved again, which does no harm
    flight.durable = True
    done = Done(flight.draft.sequence, checkpoint=str(checkpoint))
    return msgspec.structs.replace(outcome(done, flight), untagged=untagged)


def landed(
    run: Run, attempt: str, flights: dict[int, Flight], persister: Callable[[CheckpointId | None], Persister]
) -> Iterator[Outcome]:
    """Take from the flights those that are checkpoints, though nobody said so any more."""
    for sequence, checkpoint in committed(run, attempt).items():
        flight = flights.get(sequence)
        if flight is not None and (found := finish(flight, checkpoint, persister(checkpoint))):
            del flights[sequence]
            yield found


def outcome(done: Done, flight: Flight) -> Outcome:
    """What became of a snapshot, from the agent's answer."""
    cores = os.cpu_count() or 1
    return Outcome(
        sequence=done.sequence,
        checkpoint=CheckpointId.parse(done.checkpoint) if done.checkpoint is not None else None,
        error=revive(done.failure) if done.failure is not None else None,
        untagged={tag: revive(failure) for tag, failure in done.untagged.items()},
        size_bytes=done.size_bytes,
        new_bytes=done.new_bytes,
        seconds=time.monotonic() - flight.staged_at + flight.stall_seconds,
        stall_seconds=flight.stall_seconds,
        share_seconds=done.cpu_seconds / cores,
    )


def torn(sequence: int) -> Outcome:
    """Of a snapshot that training has changed while it was copied."""
    error = StorageError(
        "Parameters were changed outside of the optimizer's step while they were copied.",
        do="From now on everything is copied before training goes on.",
    )
    return Outcome(sequence=sequence, error=error)


def uncopied(sequence: int, failure: Exception | None) -> Outcome:
    """Of a snapshot that was not copied to its end."""
    why = f": {type(failure).__name__}: {failure}" if failure is not None else ", as that was interrupted."
    error = StorageError(f"The state could not be copied{why}", do="The next save copies all of it again.")
    return Outcome(sequence=sequence, error=error)


def late(flight: Flight, run: Run, deadline_seconds: float) -> Outcome:
    """Of a snapshot that is not durable in time."""
    error = StorageError(
        f"Step {flight.draft.progress.step} of {run.name} was not durable after {deadline_seconds:.0f} s "
        "and was given up.",
        do=f"See whether {run.storage.location} still answers.",
    )
    return Outcome(sequence=flight.draft.sequence, error=error)
