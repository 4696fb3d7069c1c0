"""Keeping trainers away from a run while the command line changes it."""

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
    from holdfast.errors import BusyError
    from holdfast.node import lease

    name = lease.claim_lock_name(run.name)
    with run.storage.lock(name, shared=False, wait_seconds=_WAIT_SECONDS) as held:
        if not held and run.storage.exclusive_locks:
            raise BusyError(f"The run {run.name} is just being launched.", do="Try again in a moment.")
        lease.refuse_if_held(run.storage, run.layout.leases, f"The run {run.name}")
        yield
