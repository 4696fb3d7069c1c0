"""The way that does not hold up the training loop: snapshots in shared memory, made durable by an agent."""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Callable, Sequence
from contextlib import suppress

import msgspec

from holdfast.domain.manifest import Details
from holdfast.domain.names import CheckpointId
from holdfast.errors import HoldfastError, StorageError
from holdfast.node.arena import Slot, SnapshotRecord
from holdfast.node.channel import ChannelClosedError
from holdfast.node.link import AgentUnavailableError, Link
from holdfast.node.messages import Done, Hello, Message, NewSlot, Staged, Told, Withdraw, Withdrawn, revive
from holdfast.repository.commit import Draft, encode_details
from holdfast.repository.persisting import Persister
from holdfast.repository.run import Run
from holdfast.training.fencing import Fencing
from holdfast.training.placing import Placing
from holdfast.training.slots import Slots
from holdfast.training.staging import Fence, Versions, stage
from holdfast.training.ways import Blocking, Outcome

DEADLINE_SECONDS = 1800.0
PATIENCE_DEATHS = 3
"""Agents that may die one after the other over the same snapshots before training saves by itself."""
_WAIT_SECONDS = 0.5


class _Flight(msgspec.Struct):
    """A snapshot on its way."""

    draft: Draft
    details: Details
    slot: int
    staged: Staged
    urgent: bool
    stall_seconds: float
    staged_at: float
    complete: bool = False


class Background:
    """Copies drafts into shared memory and lets an agent make them durable.

    Parameters
    ----------
    run : Run
    address : bytes
        Where the agent listens.
    hello : Hello
        What the agent is told of the attempt.
    persister : callable
        Makes the one that saves in this process, given the newest durable checkpoint: for when
        there is no agent or no memory.
    warn : callable
    on_busy : {"wait", "skip", "replace"}
        What a save does that finds two others on their way.
    """

    def __init__(
        self,
        run: Run,
        address: bytes,
        hello: Hello,
        *,
        persister: Callable[[CheckpointId | None], Persister],
        warn: Callable[[str], None],
        on_busy: str,
    ) -> None:
        self._run = run
        self._address = address
        self._hello = hello
        self._persister = persister
        self._warn = warn
        self._on_busy = on_busy
        self._link: Link | None = None
        self._knows_all = False
        self._slots = Slots(lambda number, slot: self._send(NewSlot(number), slot))
        self._placing = Placing()
        self._flights: dict[int, _Flight] = {}
        self._decided: list[Outcome] = []
        self._deaths = 0
        self._fencing = Fencing.chosen(warn)
        self._fenced: tuple[int, Fence] | None = None
        self._completing = threading.RLock()
        self._instead: Blocking | None = None
        self._closed = False

    # -- the contract of a way ---------------------------------------------------------

    def has_room(self) -> bool:
        if self._instead is not None or self._on_busy == "wait" or len(self._flights) < self._slots.limit:
            return True
        self._listen(0.0)
        return len(self._flights) < self._slots.limit or (
            self._on_busy == "replace" and self._withdraw_newest()
        )

    def submit(self, draft: Draft, tags: Sequence[str], *, urgent: bool, versions: Versions) -> None:
        self._close_fence()
        started = time.monotonic()
        details = encode_details(draft)
        if self._closed and self._instead is None:  # a session that another one has taken over
            self._instead = Blocking(self._persister(self._newest_durable()))
        taken = self._instead is None and self._stage(
            draft, details, tuple(tags), urgent=urgent, versions=versions, started=started
        )
        if not taken and self._instead is not None:
            self._instead.submit(draft, tags, urgent=urgent, details=details)

    def before_step(self) -> None:
        fenced, started = self._fenced, time.monotonic()
        if fenced is None:
            return
        flight = self._flights.get(fenced[0])
        self._close_fence()
        if flight is not None:
            flight.stall_seconds += time.monotonic() - started

    def outcomes(self, wait_seconds: float = 0.0) -> list[Outcome]:
        if wait_seconds:
            self._close_fence()
        self._fencing.tell()
        if self._instead is not None:
            self._decided += self._instead.outcomes()
        if not self._decided:
            self._listen(wait_seconds)
        with self._completing:
            decided, self._decided = self._decided, []
        return decided

    def close(self) -> None:
        self._close_fence()
        while self._flights and self._link is not None and not self._is_linked(_WAIT_SECONDS):
            pass  # what is staged must have an owner before this one lets go
        if self._link is not None:
            self._link.close()
            self._link = None
        self._slots.close()
        self._closed = True

    # -- staging -----------------------------------------------------------------------

    def _stage(
        self,
        draft: Draft,
        details: Details,
        tags: tuple[str, ...],
        *,
        urgent: bool,
        versions: Versions,
        started: float,
    ) -> bool:
        """Copy the draft and hand it over; False if this process has to save it itself."""
        layout = self._placing.layout(draft.sources)
        places, tensors_bytes = layout.places, layout.size_bytes
        record = msgspec.msgpack.encode(
            SnapshotRecord(
                attempt=str(draft.attempt),
                sequence=draft.sequence,
                progress=draft.progress,
                reason=draft.reason,
                metrics=draft.metrics,
                done=draft.done,
                monitor=draft.monitor,
                tensors=layout.encoded,
                details=details,
            )
        )
        number = self._take_slot(tensors_bytes + len(record))
        if number is None:
            return False
        slot = self._slots[number]
        fence = stage(
            draft.sources, places, slot, self._fencing.usable(versions), compare=self._fencing.compares
        )
        slot.memory[tensors_bytes : tensors_bytes + len(record)] = memoryview(record)
        draft.sources = layout.sources(slot)
        staged = Staged(draft.sequence, number, tensors_bytes, len(record), tags)
        now = time.monotonic()
        self._flights[draft.sequence] = _Flight(draft, details, number, staged, urgent, now - started, now)
        self._is_linked(0.0)
        self._fenced = draft.sequence, fence
        if fence.done:
            self._complete()
        else:
            fence.begin(self._complete)
        return True

    def _close_fence(self) -> None:
        """Have the snapshot that is being copied complete, and handed over."""
        fenced = self._fenced
        if fenced is not None:
            fenced[1].finish()
            self._complete()

    def _complete(self) -> None:
        """Hand over what is copied; also called by the thread that copies, the moment it is done."""
        with self._completing:
            if self._fenced is None:
                return
            (sequence, fence), self._fenced = self._fenced, None
            flight, compared = self._flights.get(sequence), self._fencing.compares
            if flight is None:
                return  # given up
            if self._fencing.judge(fence.held()) or compared:
                flight.complete = True
                self._deliver(flight)
                return
            del self._flights[sequence]
            error = StorageError(
                "Parameters were changed outside of the optimizer's step while they were copied.",
                do="From now on everything is copied before training goes on.",
            )
            self._decided.append(Outcome(sequence=sequence, error=error))

    def _deliver(self, flight: _Flight) -> None:
        """Tell the agent, if it is there and alive; else it, or its successor, is told later."""
        link = self._link
        if link is not None and self._knows_all:
            with suppress(ChannelClosedError):
                link.send(flight.staged)

    def _take_slot(self, need_bytes: int) -> int | None:
        """A slot that is free and large enough; waits for one. None if there is no memory for any."""
        while self._instead is None:
            try:
                number = self._slots.take({f.slot for f in list(self._flights.values())}, need_bytes)
            except MemoryError as lacking:
                need = f"{lacking.args[0] / 1e6:.0f} MB of memory"
                self._save_by_itself(f"saving in the background needs {need}, which is not there")
                return None
            if number is not None:
                return number
            self._listen(_WAIT_SECONDS)
        return None

    # -- the agent ---------------------------------------------------------------------

    def start(self) -> None:
        """Start an agent now, so that the first save need not wait for it."""
        self._knows_all = False
        parent = self._newest_durable()
        hello = msgspec.structs.replace(self._hello, parent=str(parent) if parent is not None else None)
        try:
            self._link = Link(self._address, hello)
        except AgentUnavailableError as error:
            self._save_by_itself(f"no agent can be started ({error})")

    def _is_linked(self, wait_seconds: float) -> bool:
        """Whether there is an agent; one that has just come to be is told everything."""
        if self._link is None or self._knows_all:
            return self._link is not None
        try:
            if not self._link.approach(wait_seconds):
                return False
        except AgentUnavailableError as error:
            self._save_by_itself(f"no agent can be started ({error})")
            return False
        return self._tell_everything(self._link)

    def _tell_everything(self, link: Link) -> bool:
        """Tell a new agent of all slots and complete snapshots; before that it is told of none."""
        try:
            with self._completing:
                for number, slot in self._slots:
                    link.send(NewSlot(number), [slot.descriptor])
                for flight in self._complete_flights():
                    link.send(flight.staged)
                self._knows_all = True
        except ChannelClosedError:
            self._agent_died()
        return self._knows_all

    def _complete_flights(self) -> list[_Flight]:
        return [flight for flight in list(self._flights.values()) if flight.complete]

    def _newest_durable(self) -> CheckpointId | None:
        mine = self._durable()
        if mine:
            return mine[max(mine)]
        return CheckpointId.parse(self._hello.parent) if self._hello.parent is not None else None

    def _durable(self) -> dict[int, CheckpointId]:
        """What of this attempt is committed, by sequence number."""
        try:
            own = [c for c in self._run.checkpoints() if str(c.attempt) == self._hello.attempt]
        except HoldfastError:
            return {}  # what cannot be looked up is saved again, which does no harm
        return {c.sequence: c for c in own if c.kind == "full"}

    def _send(self, message: Message, slot: Slot | None = None) -> None:
        if self._link is None or not self._knows_all:
            return  # it is told once it is there
        try:
            self._link.send(message, [] if slot is None else [slot.descriptor])
        except ChannelClosedError:
            self._agent_died()

    def _listen(self, wait_seconds: float) -> None:
        """Take what the agent says; wait for the first message if anything is on its way."""
        if not self._flights or not self._is_linked(wait_seconds):
            return
        link = self._link
        try:
            while link is not None and self._link is link:
                message = link.receive(0.0 if self._decided else wait_seconds)
                if message is None:
                    break
                self._heard(message)
        except ChannelClosedError:
            self._agent_died()
        self._give_up_late_ones()

    def _heard(self, message: Message) -> None:
        if isinstance(message, Told):
            self._warn(message.text)
        elif isinstance(message, Withdrawn):
            if self._flights.pop(message.sequence, None) is not None:
                self._decided.append(Outcome(sequence=message.sequence, replaced=True))
        elif isinstance(message, Done) and message.sequence in self._flights:
            self._deaths = 0
            flight = self._flights.pop(message.sequence)
            self._decided.append(_outcome(message, flight))

    def _give_up_late_ones(self) -> None:
        late = [f for f in list(self._flights.values()) if time.monotonic() - f.staged_at > DEADLINE_SECONDS]
        if not late or self._link is None:
            return
        self._link.kill()
        for flight in late:
            del self._flights[flight.draft.sequence]
            error = StorageError(
                f"Step {flight.draft.progress.step} of {self._run.name} was not durable "
                f"after {DEADLINE_SECONDS:.0f} s and was given up.",
                do=f"See whether {self._run.storage.location} still answers.",
            )
            self._decided.append(Outcome(sequence=flight.draft.sequence, error=error))
        self._agent_died()

    def _agent_died(self) -> None:
        """Nothing is lost: the snapshots are in this process's memory, too."""
        if self._link is not None:
            self._link.close()
            self._link = None
        self._deaths += 1
        durable = self._durable()
        for sequence in [s for s in list(self._flights) if s in durable]:
            flight = self._flights.pop(sequence)
            self._decided.append(_outcome(Done(sequence, checkpoint=str(durable[sequence])), flight))
        if self._deaths > PATIENCE_DEATHS:
            self._save_by_itself("its agent keeps dying")
            return
        self._warn("the process that saves in the background has died; another one goes on with its work.")
        self.start()

    def _save_by_itself(self, why: str) -> None:
        """From now on save in this process, beginning with what is on its way."""
        self._close_fence()
        self._warn(f"{why}; saves hold up training from now on.")
        if self._link is not None:
            self._link.close()
            self._link = None
        self._instead = Blocking(self._persister(self._newest_durable()))
        for flight in list(self._flights.values()):
            self._instead.submit(flight.draft, flight.staged.tags, urgent=True, details=flight.details)
        self._flights.clear()

    def _withdraw_newest(self) -> bool:
        """Make room by forgetting the newest snapshot that nobody asked for and that is not begun."""
        waiting = [f for f in list(self._flights.values()) if not f.urgent]
        if not waiting:
            return False
        sequence = waiting[-1].draft.sequence
        self._send(Withdraw(sequence))
        deadline = time.monotonic() + _WAIT_SECONDS
        while sequence in self._flights and time.monotonic() < deadline:
            self._listen(_WAIT_SECONDS)
        return len(self._flights) < self._slots.limit


def _outcome(done: Done, flight: _Flight) -> Outcome:
    cores = os.cpu_count() or 1
    return Outcome(
        sequence=done.sequence,
        checkpoint=CheckpointId.parse(done.checkpoint) if done.checkpoint is not None else None,
        error=revive(done.failure) if done.failure is not None else None,
        untagged={tag: revive(failure) for tag, failure in done.untagged.items()},
        size_bytes=done.size_bytes,
        new_bytes=done.new_bytes,
        seconds=time.monotonic() - flight.staged_at + flight.stall_seconds,
        burden_seconds=flight.stall_seconds + done.cpu_seconds / cores,
    )
