"""`save` and `load` by hand, for scripts that keep their own loop."""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping
from typing import Any, ClassVar

from holdfast.domain.lineage import head_attempt
from holdfast.domain.names import AttemptId, CheckpointId, validate_tag
from holdfast.domain.progress import Progress
from holdfast.errors import BusyError, NotFoundError, UnsupportedError
from holdfast.frameworks import walk
from holdfast.frameworks.rng import capture_rng, restore_rng
from holdfast.node import lease
from holdfast.repository.collecting import collector_paused
from holdfast.repository.commit import Draft, commit
from holdfast.repository.repository import Repository
from holdfast.repository.run import Run
from holdfast.storage.urls import open_storage
from holdfast.training import console, poison
from holdfast.training.arguments import check_state, check_step
from holdfast.training.environment import environment
from holdfast.training.opening import wait_for_earlier_snapshots
from holdfast.training.ranks.launch import place
from holdfast.training.restoring import Restored, Restorer
from holdfast.training.views import Checkpoint


class _Writer:
    """The attempt of one run that this process writes, shared by all its calls of `save`."""

    _known: ClassVar[dict[tuple[str, str, str], _Writer]] = {}
    last: ClassVar[dict[tuple[str, str, str], CheckpointId]] = {}
    """What this process loaded or saved last: what it saves next descends from it."""

    def __init__(self, run: Run, key: tuple[str, str, str]) -> None:
        self.run = run
        self.pid = os.getpid()
        self.key = key
        self.sequence = 0
        with lease.claiming(run.storage, run.name):
            if any(holder.is_this_process() for holder in lease.holders(run.storage, run.layout.leases)):
                raise BusyError(
                    f"A Checkpointer of this process trains the run {run.name}.",
                    do="Use its save(), or save to another run.",
                )
            lease.refuse_if_held(run.storage, run.layout.leases, f"The run {run.name}")
            wait_for_earlier_snapshots(run)
            self.attempt: AttemptId = run.begin_attempt()
        base = _Writer.last.get(key)
        if base is None and (latest := run.latest()) is not None:
            console.say(
                f"{run.name} has checkpoints up to step {latest.step}, but nothing was loaded from it: what "
                "is saved now is a new line, and 'latest' and 'best' mean that one. load() first to go on."
            )
        run.record_base(self.attempt, base)

    @classmethod
    def of(cls, location: str | os.PathLike[str], run: str) -> _Writer:
        found = Repository.create(open_storage(location, create=True))
        key = _key(found, run)
        known = cls._known.get(key)
        if known is None or not _still_heads(known):
            known = cls._known[key] = cls(found.run(run), key)
        return known


def _key(repository: Repository, run: str) -> tuple[str, str, str]:
    """A place may come to hold another repository, and a copy of one may lie at another place."""
    return (repository.storage.location, repository.id, run)


def _still_heads(writer: _Writer) -> bool:
    if writer.pid != os.getpid():
        return False  # a forked child is a writer of its own
    head = head_attempt(writer.run.attempts())
    return head is not None and head.id == writer.attempt


@collector_paused()
def save(
    repository: str | os.PathLike[str],
    state: dict[str, Any],
    *,
    step: int,
    run: str = "main",
    metrics: dict[str, float] | None = None,
    tag: str | None = None,
) -> Checkpoint:
    """Save a training state; durable on return.

    Parameters
    ----------
    repository : str or path
        Created if there is none.
    state : dict
        As for `Checkpointer`; the global random generators are kept too.
    step : int
        What the checkpoint is called.
    run : str
    metrics : dict, optional
    tag : str, optional
        A name for it; tagged checkpoints are never removed.

    Raises
    ------
    HoldfastError
        Nothing became visible.
    """
    _refuse_ranks(os.environ)
    check_state(state)
    check_step(step)
    poison.refuse(state.values())
    if tag is not None:
        validate_tag(tag)
    captured = walk.capture(state)
    writer = _Writer.of(repository, run)
    writer.sequence += 1
    draft = Draft(
        attempt=writer.attempt,
        sequence=writer.sequence,
        progress=Progress(step=step),
        reason="save()",
        sources=captured.tensors,
        tree=captured.tree,
        training={"rng": capture_rng(), "position": None},
        environment=environment(),
        metrics=dict(metrics or {}),
        parent=_Writer.last.get(writer.key),
    )
    committed = commit(writer.run, draft)
    _Writer.last[writer.key] = committed.id
    if tag is not None:
        writer.run.set_tag(tag, committed.id)
    return Checkpoint(writer.run, committed.id)


def load(
    repository: str | os.PathLike[str],
    into: dict[str, Any],
    *,
    run: str = "main",
    at: int | str = "latest",
    only: str | Iterable[str] | None = None,
    strict: bool = True,
) -> Checkpoint:
    """Restore a training state in place, verified; walks back past damaged checkpoints.

    Parameters
    ----------
    repository : str or path
        Never created.
    into : dict
        Live objects; plain values are replaced in it.
    at : int or str
        A step, a tag, ``"best"`` or ``"latest"``.
    only : str or iterable of str, optional
        Restrict to these entries; the global random generators are then left alone.
    strict : bool
        Refuse a checkpoint that does not fit, before anything is touched; otherwise skip
        what does not fit and say so.

    Raises
    ------
    NotFoundError, DamagedError, MismatchError
    """
    check_state(into)
    storage = open_storage(repository)
    found = Repository.open(storage).run(run)
    names = None if only is None else [only] if isinstance(only, str) else list(only)
    restorer = Restorer(found, into, environment=environment() if names is None else None, emit=console.show)
    restored = _restore(restorer, found, at, names, strict=strict)
    rng = restored.training.get("rng")
    if names is None and rng is not None:
        restore_rng(rng)
    if restored.skipped:
        console.say("skipped, because strict=False:\n  " + "\n  ".join(restored.skipped))
    _Writer.last[_key(found.repository, run)] = restored.id
    return Checkpoint(found, restored.id)


def _restore(
    restorer: Restorer, run: Run, at: int | str, only: list[str] | None, *, strict: bool
) -> Restored:
    if at != "latest":
        return restorer.one(run.resolve(at), only=only, strict=strict)
    restored = restorer.newest(only=only, strict=strict)
    if restored is None:
        run.resolve("latest")  # says what there is
        raise NotFoundError(f"The run {run.name} has no checkpoint.")
    return restored


def _refuse_ranks(variables: Mapping[str, str]) -> None:
    here = place(variables)
    if here.world_size > 1:
        raise UnsupportedError(
            f"holdfast.save() saves one process, and this is rank {here.rank} of {here.world_size}.",
            do="Use a Checkpointer, which saves all ranks together.",
        )
