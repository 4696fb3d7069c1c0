"""The agent's work: snapshots in shared memory become checkpoints, one after the other."""

from __future__ import annotations

import threading
import time
from collections import deque
from collections.abc import Callable
from contextlib import suppress

from holdfast.domain import events
from holdfast.domain.events import Listener, unheard
from holdfast.domain.names import AttemptId, CheckpointId
from holdfast.domain.tensors import TensorSource
from holdfast.errors import (
    DamagedError,
    HoldfastError,
    NotFoundError,
    SealedError,
    StorageError,
    UsageError,
)
from holdfast.node import messages
from holdfast.node.arena import LEFT_OUT, Slot, SlotSource, SnapshotRecord, read_record
from holdfast.node.messages import Done, Hello, Message, Staged, Told, describe
from holdfast.repository.commit import Draft
from holdfast.repository.depending import depend_on
from holdfast.repository.persisting import Persisted, Persister
from holdfast.repository.repository import Repository
from holdfast.repository.retaining import Retention
from holdfast.repository.run import Run
from holdfast.repository.stored import ParentsTensor
from holdfast.storage.urls import open_storage

Tell = Callable[[Message], None]


class Worker:
    """Persists in a thread of its own what it is given, in that order.

    Parameters
    ----------
    tell : callable
        Takes a message for the trainer; never raises.
    on_idle : callable
        Called whenever nothing is left to do.
    emit : callable
        Takes every checkpoint as an event.
    """

    def __init__(self, tell: Tell, on_idle: Callable[[], None], emit: Listener = unheard) -> None:
        self._tell = tell
        self._emit = emit
        self._on_idle = on_idle
        self._jobs: deque[tuple[Staged, Slot] | Hello] = deque()
        self._ready = threading.Condition()
        self._busy = False
        self._attempt: _Attempt | None = None
        threading.Thread(target=self._run, daemon=True).start()

    @property
    def idle(self) -> bool:
        with self._ready:
            return not self._busy and not self._jobs

    def add(self, job: tuple[Staged, Slot] | Hello) -> None:
        with self._ready:
            self._jobs.append(job)
            self._ready.notify()

    def withdraw(self, sequence: int) -> bool:
        """Forget a snapshot; False if it has been begun."""
        with self._ready:
            for job in self._jobs:
                if isinstance(job, tuple) and job[0].sequence == sequence:
                    self._jobs.remove(job)
                    return True
        return False

    def _run(self) -> None:
        while True:
            with self._ready:
                self._ready.wait_for(lambda: bool(self._jobs))
                job, self._busy = self._jobs.popleft(), True
            self._do(job)
            with self._ready:
                self._busy = False
            self._on_idle()

    def _do(self, job: tuple[Staged, Slot] | Hello) -> None:
        if isinstance(job, Hello):
            self._attempt = _Attempt(job, lambda text: self._tell(Told(text)), self._emit)
            return
        staged, slot = job
        assert self._attempt is not None, "a trainer introduces itself first"
        try:
            done = self._attempt.persist(staged, slot)
        except Exception as error:  # whatever it is, the trainer must learn of it
            done = Done(staged.sequence, failure=describe(error))
        self._tell(done)


class _Attempt:
    """One attempt of a run, as its trainer introduced it; opened when its first snapshot comes."""

    def __init__(self, hello: Hello, warn: Callable[[str], None], emit: Listener) -> None:
        self._hello = hello
        self._warn = warn
        self._emit = emit
        self._open: tuple[Persister, Run] | None = None

    def persist(self, staged: Staged, slot: Slot) -> Done:
        started, cpu = time.monotonic(), time.process_time()
        record = read_record(slot, staged.start, staged.size_bytes)
        if record.attempt != self._hello.attempt:
            raise HoldfastError(f"A snapshot of attempt {record.attempt} came from {self._hello.attempt}.")
        persister, run = self._opened()
        draft = _draft(record)
        parent = persister.parent if draft.is_unchanged_in(persister.parent) else None
        draft.sources = _sources(record, slot, run, parent)
        persisted = persister.persist(draft, staged.tags, details=record.details)
        seconds, committed = time.monotonic() - started, persisted.committed
        self._emit(
            events.Persisted(
                self._hello.run,
                self._hello.attempt,
                committed.id.step,
                str(committed.id),
                seconds,
                committed.summary.size_bytes,
                committed.new_bytes,
            )
        )
        cpu_seconds = time.process_time() - cpu
        return _done(staged.sequence, persisted, seconds=seconds, cpu_seconds=cpu_seconds)

    def _opened(self) -> tuple[Persister, Run]:
        if self._open is None:
            hello = self._hello
            run = _repository(hello.location).run(hello.run)
            attempt = AttemptId.parse(hello.attempt)
            if attempt is None:
                raise HoldfastError(f"{hello.attempt!r} names no attempt.")
            parent = CheckpointId.parse(hello.parent) if hello.parent is not None else None
            if parent is not None:
                with suppress(DamagedError, NotFoundError):  # then all of it is written
                    depend_on(run, parent)  # what the trainer was restored from need not be written again
            retention = Retention(run, attempt, hello.keep, self._warn)
            persister = Persister(run, attempt, parent=parent, retention=retention, warn=self._warn)
            self._open = persister, run
        return self._open


def _repository(location: str) -> Repository:
    try:
        return Repository.open(open_storage(location))
    except NotFoundError as error:  # the trainer has just used it: it may come back
        raise StorageError(f"The repository {location} has vanished.", do="Put it back.") from error
    except (SealedError, UsageError) as error:  # so may the key
        raise StorageError(error.what, do=error.do) from error


def _sources(
    record: SnapshotRecord, slot: Slot, run: Run, parent: CheckpointId | None
) -> dict[str, TensorSource]:
    return {
        name: ParentsTensor(run, parent, name, place.spec)
        if place.offset == LEFT_OUT and parent is not None
        else SlotSource(slot, place)
        for name, place in record.tensors.items()
    }


def _draft(record: SnapshotRecord) -> Draft:
    """All but its sources."""
    attempt = AttemptId.parse(record.attempt)
    if attempt is None:
        raise HoldfastError(f"{record.attempt!r} names no attempt.")
    return Draft(
        attempt=attempt,
        sequence=record.sequence,
        progress=record.progress,
        reason=record.reason,
        sources={},
        tree={},
        metrics=record.metrics,
        done=record.done,
        monitor=record.monitor,
        left_out=frozenset(name for name, place in record.tensors.items() if place.offset == LEFT_OUT),
        compared=record.compared,
        unchanged_since=record.unchanged_since,
    )


def _done(sequence: int, persisted: Persisted, *, seconds: float, cpu_seconds: float) -> Done:
    committed = persisted.committed
    untagged: dict[str, messages.Failure] = {tag: describe(e) for tag, e in persisted.untagged.items()}
    return Done(
        sequence,
        checkpoint=str(committed.id),
        untagged=untagged,
        size_bytes=committed.summary.size_bytes,
        new_bytes=committed.new_bytes,
        seconds=seconds,
        cpu_seconds=cpu_seconds,
    )
