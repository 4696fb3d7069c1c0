"""Keeping trainers away from a run while something else changes it."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

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
