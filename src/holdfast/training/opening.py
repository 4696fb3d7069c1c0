"""The wiring: by which way the drafts of an attempt become durable."""

from __future__ import annotations

import sys
from collections.abc import Callable, Mapping
from functools import partial
from typing import TYPE_CHECKING, Any

from holdfast.domain.events import Event
from holdfast.domain.names import AttemptId, CheckpointId
from holdfast.repository.commit import Join
from holdfast.repository.persisting import Persister
from holdfast.repository.retaining import Retention
from holdfast.repository.run import Run
from holdfast.storage.urls import shared_place
from holdfast.training.options import Options
from holdfast.training.publishing import PublishingPersister
from holdfast.training.saving import Saver
from holdfast.training.ways import Blocking, Way
from holdfast.version import __version__

if TYPE_CHECKING:
    from holdfast.node.legacy import Legacy
    from holdfast.node.messages import Held
    from holdfast.training.background import Background

EARLIER_SECONDS = 300.0
"""How long a launch waits for what the one before has staged."""


def open_way(
    run: Run,
    attempt: AttemptId,
    base: CheckpointId | None,
    options: Options,
    warn: Callable[[str], None],
    legacy: Legacy | None = None,
) -> Way:
    """In the background where that is wanted and another process can reach the storage; else blocking."""

    persister = partial(_persister, run, attempt, options, warn)
    if options.background and _is_shared(run):
        return introduce(run, attempt, base, options, persister, warn, legacy)
    if legacy is not None:
        legacy.decline()
    if options.memory is not None:
        warn(f"no snapshots are kept in memory: no other process can save to {run.storage.location}.")
    return Blocking(open_persister(run, attempt, base, options, warn))


def open_saver(
    run: Run,
    attempt: AttemptId,
    state: Mapping[str, Any],
    way: Way,
    options: Options,
    emit: Callable[[Event], None],
    given: dict[str, Any],
    surroundings: dict[str, dict[str, str]],
) -> Saver:
    """What takes the state at safe points and hands it over."""
    keep = options.keep
    return Saver(
        run.name,
        attempt,
        state,
        way,
        given=given,
        environment=surroundings,
        monitor=f"{keep.monitor} {keep.mode}" if keep.best else None,
        on_fault=options.on_fault,
        emit=emit,
    )


def open_persister(
    run: Run,
    attempt: AttemptId,
    base: CheckpointId | None,
    options: Options,
    warn: Callable[[str], None],
    join: Join | None = None,
) -> Persister:
    """What saves in the loop; says what of ``options`` cannot be had then.

    Parameters
    ----------
    join : callable, optional
        Adds what other ranks have, see `commit`.
    """
    if options.compact == "idle":
        warn("packs are not compacted while this runs: nothing saves in the background.")
    for mirror in options.mirrors:
        warn(f"nothing is brought to {mirror.place} while this runs: nothing saves in the background.")
    own = _persister(run, attempt, options, warn, base, join)
    if isinstance(own, PublishingPersister):
        own.publish()  # an attempt before may have died before it did
    return own


def _persister(
    run: Run,
    attempt: AttemptId,
    options: Options,
    warn: Callable[[str], None],
    parent: CheckpointId | None,
    join: Join | None = None,
) -> Persister:
    retention = Retention(run, attempt, options.keep, warn)
    kind = partial(PublishingPersister, publish=options.publish) if options.publish else Persister
    return kind(run, attempt, parent=parent, retention=retention, warn=warn, join=join)


def introduce(
    run: Run,
    attempt: AttemptId,
    base: CheckpointId | None,
    options: Options,
    persister: Callable[[CheckpointId | None], Persister],
    warn: Callable[[str], None],
    legacy: Legacy | None = None,
) -> Background:
    """The way through an agent, which is started now unless a trainer before has left one."""
    from holdfast.node.messages import Hello
    from holdfast.training.background import Background

    hello = Hello(
        version=__version__,
        location=run.storage.location,
        run=run.name,
        attempt=str(attempt),
        parent=str(base) if base is not None else None,
        keep=options.keep,
        memory_seconds=options.memory_seconds,
        compact=options.compact == "idle",
        mirrors=options.mirrors,
        publish=options.publish,
    )
    return Background(
        run,
        _address(run),
        hello,
        persister=persister,
        warn=warn,
        on_busy=options.on_busy,
        keeps=options.memory is not None,
        legacy=legacy,
        device_bytes=options.staging_memory,
    )


def inherit_snapshots(run: Run, warn: Callable[[str], None]) -> Legacy | None:
    """Take over what a trainer of this run, which has died, left in memory.

    Before an attempt supersedes it, what it has staged becomes durable.
    """
    if not _is_shared(run):
        return None
    from holdfast.node.legacy import inherit

    try:
        legacy = inherit(_address(run), __version__, EARLIER_SECONDS)
    except TimeoutError:
        warn("the saves of an earlier launch are still on their way; they are not waited for.")
        return None
    if legacy is not None and legacy.lost is not None:
        warn(f"the newest snapshot of the launch before, in memory only, is lost: {legacy.lost}")
    return legacy


def wait_for_earlier_snapshots(run: Run) -> None:
    """Let what a killed trainer of this run has staged become durable, and its memory go."""
    if _is_shared(run):
        from holdfast.node.legacy import wait_for_agent_of_before

        wait_for_agent_of_before(_address(run), EARLIER_SECONDS)


def snapshots_of(run: Run) -> Held | None:
    """What an agent of this run holds in memory; None if there is none on this machine."""
    if not _is_shared(run):
        return None
    from holdfast.node.legacy import look

    return look(_address(run))


def _address(run: Run) -> bytes:
    from holdfast.node.channel import address

    return address(run.repository.id, run.storage.location, run.name)


def _is_shared(run: Run) -> bool:
    """Whether a process beside this one can save to the run: memory shared without a name is Linux's."""
    return sys.platform == "linux" and shared_place(run.storage) is not None
