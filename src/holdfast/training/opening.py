"""The wiring: by which way the drafts of an attempt become durable."""

from __future__ import annotations

import sys
from collections.abc import Callable
from typing import TYPE_CHECKING

from holdfast.domain.keep_rules import KeepRule
from holdfast.domain.names import AttemptId, CheckpointId
from holdfast.repository.persisting import Persister
from holdfast.repository.retaining import Retention
from holdfast.repository.run import Run
from holdfast.storage.urls import shared_place
from holdfast.training.options import Options
from holdfast.training.ways import Blocking, Way
from holdfast.version import __version__

if TYPE_CHECKING:
    from holdfast.training.background import Background

EARLIER_SECONDS = 300.0
"""How long a launch waits for what the one before has staged."""


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
    return introduce(run, attempt, base, options.keep, persister, warn, on_busy=options.on_busy)


def introduce(
    run: Run,
    attempt: AttemptId,
    base: CheckpointId | None,
    keep: KeepRule,
    persister: Callable[[CheckpointId | None], Persister],
    warn: Callable[[str], None],
    *,
    on_busy: str,
) -> Background:
    """The way through an agent, which is started now."""
    from holdfast.node.messages import Hello
    from holdfast.training.background import Background

    hello = Hello(
        version=__version__,
        location=run.storage.location,
        run=run.name,
        attempt=str(attempt),
        parent=str(base) if base is not None else None,
        keep=keep,
    )
    way = Background(run, _address(run), hello, persister=persister, warn=warn, on_busy=on_busy)
    way.start()
    return way


def wait_for_earlier_snapshots(run: Run) -> bool:
    """Let what a killed trainer of this run has staged become durable, before an attempt supersedes it.

    Returns
    -------
    bool
        False if that takes too long.
    """
    if not _is_shared(run):
        return True
    from holdfast.node.link import wait_for_agent_of_before

    return wait_for_agent_of_before(_address(run), EARLIER_SECONDS)


def _address(run: Run) -> bytes:
    from holdfast.node.channel import address

    return address(run.repository.id, run.storage.location, run.name)


def _is_shared(run: Run) -> bool:
    """Whether a process beside this one can save to the run: memory shared without a name is Linux's."""
    return sys.platform == "linux" and shared_place(run.storage) is not None
