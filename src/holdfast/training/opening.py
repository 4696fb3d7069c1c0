"""The wiring: by which way the drafts of an attempt become durable."""

from __future__ import annotations

import sys
from collections.abc import Callable

from holdfast.domain.names import AttemptId, CheckpointId
from holdfast.repository.persisting import Persister
from holdfast.repository.retaining import Retention
from holdfast.repository.run import Run
from holdfast.storage.urls import shared_place
from holdfast.training.options import Options
from holdfast.training.ways import Blocking, Way


def open_way(
    run: Run,
    attempt: AttemptId,
    base: CheckpointId | None,
    options: Options,
    warn: Callable[[str], None],
) -> Way:
    """In the background where that is wanted and another process can reach the storage; else blocking."""

    def persister(parent: CheckpointId | None) -> Persister:
        retention = Retention(run, attempt, options.keep, warn)
        return Persister(run, attempt, parent=parent, retention=retention, warn=warn)

    if not options.background or not _is_shared(run):
        return Blocking(persister(base))
    from holdfast.training.background import introduce

    return introduce(run, attempt, base, options.keep, persister, warn, on_busy=options.on_busy)


def wait_for_earlier_snapshots(run: Run) -> bool:
    """Let what a killed trainer of this run has staged become durable, before an attempt supersedes it.

    Returns
    -------
    bool
        False if that takes too long.
    """
    if not _is_shared(run):
        return True
    from holdfast.training.background import wait_for_agent_of_before

    return wait_for_agent_of_before(run)


def _is_shared(run: Run) -> bool:
    """Whether a process beside this one can save to the run: memory shared without a name is Linux's."""
    return sys.platform == "linux" and shared_place(run.storage) is not None
