"""Keeping trainers away from a run while something else changes it."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

from holdfast.errors import DamagedError, UsageError

if TYPE_CHECKING:
    from holdfast.repository.run import Run

_WAIT_SECONDS = 10.0


@contextmanager
def claimed(run: Run) -> Iterator[None]:
    """Refuse a live run; while this is held no launch of it can begin.

    Raises
    ------
    BusyError
        Somebody trains it, or a launch is just beginning.
    """
    from holdfast.node import lease

    with lease.claiming(run.storage, run.name, _WAIT_SECONDS):
        lease.refuse_if_held(run.storage, run.layout.leases, f"The run {run.name}")
        yield


@contextmanager
def claimed_whole(run: Run) -> Iterator[None]:
    """As `claimed`; what a killed trainer has left in memory is durable first, and comes no later.

    Raises
    ------
    BusyError
    """
    from holdfast.training.opening import wait_for_earlier_snapshots

    with claimed(run):
        wait_for_earlier_snapshots(run)
        yield


def refuse_without_line(run: Run) -> None:
    """Refuse a fresh start beside checkpoints of which no launch is recorded: it would leave them behind.

    Raises
    ------
    DamagedError
    """
    if any(c.kind == "full" for c in run.checkpoints()) and not any(a.based for a in run.attempts()):
        raise DamagedError(
            f"The run {run.name} in {run.storage.location} has checkpoints, but no record of a launch leads "
            "to them: a sync or a move to there was cut short, or records are lost.",
            do="Do that again, or let 'holdfast repair' write the records anew; "
            f"'holdfast restart {run.name}' starts afresh.",
        )


def refuse_half_moved(run: Run) -> None:
    """Refuse a launch under a name that a run is half way to: it would start afresh, and be in the way.

    Raises
    ------
    UsageError
    """
    from holdfast.repository import records
    from holdfast.repository.moving import MovingRecord

    moving = records.read_or_none(run.storage, run.layout.moving, MovingRecord)
    if moving is not None and run.latest() is None:
        raise UsageError(
            f"The run {moving.source} is half way to the name {run.name}: a move was cut short.",
            do=f"Finish that first: holdfast mv {moving.source} {run.name}",
        )
