"""The way that does not hold up the training loop: snapshots in shared memory, made durable by an agent."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from typing import TYPE_CHECKING

import msgspec

from holdfast.domain.manifest import Details
from holdfast.domain.names import CheckpointId
from holdfast.errors import UsageError
from holdfast.node import messages
from holdfast.node.channel import ChannelClosedError
from holdfast.node.link import AgentUnavailableError
from holdfast.repository.commit import Draft, encode_details
from holdfast.repository.persisting import Persister
from holdfast.repository.run import Run
from holdfast.training.conversation import Conversation, Telling
from holdfast.training.fencing import Fencing, chosen_mode
from holdfast.training.flights import Delays, Flight, landed, late, newest, outcome, record_of, torn, uncopied
from holdfast.training.landing import hand_over
from holdfast.training.placing import Placing
from holdfast.training.slots import IN_FLIGHT, WITH_SNAPSHOTS, Slots
from holdfast.training.staging import Fence, Versions, stage
from holdfast.training.uploads import Uploads
from holdfast.training.ways import Blocking, Outcome

if TYPE_CHECKING:
    from holdfast.node.legacy import Legacy

DEADLINE_SECONDS = 1800.0
PATIENCE_DEATHS = 3
"""Agents that may die one after the other over the same snapshots before training saves by itself."""
_WAIT_SECONDS = 0.5


class Background:
    """Copies drafts into shared memory and lets an agent make them durable.

    Parameters
    ----------
    run : Run
    address : bytes
        Where the agent listens.
    hello : messages.Hello
        What the agent is told of the attempt.
    persister : callable
        Makes the one that saves in this process, given the newest durable checkpoint: for when
        there is no agent or no memory.
    warn : callable
    on_busy : {"wait", "skip", "replace"}
        What a save does that finds two others on their way.
    keeps : bool
        Whether snapshots are to stay in memory beside those on their way.
    legacy : Legacy, optional
        What a trainer before has left; owned from now on.
    device_bytes : int, optional
        What staging may take of a device's memory.
    """

    def __init__(
        self,
        run: Run,
        address: bytes,
        hello: messages.Hello,
        *,
        persister: Callable[[CheckpointId | None], Persister],
        warn: Callable[[str], None],
        on_busy: str,
        keeps: bool = False,
        legacy: Legacy | None = None,
        device_bytes: int | None = None,
    ) -> None:
        self._run = run
        self._hello = hello
        self._persister = persister
        self._warn = warn
        self._on_busy = on_busy
        self._device_bytes = device_bytes
        self._agent = Conversation(address, self._everything)
        self._slots = Slots(
            lambda number, slot: self._say(messages.NewSlot(number), [slot.descriptor]),
            limit=WITH_SNAPSHOTS if keeps else IN_FLIGHT,
            slots=legacy.slots if legacy is not None else (),
        )
        self._spared = legacy.kept.slot if legacy is not None and legacy.kept is not None else None
        self._placing = Placing()
        self._flights: dict[int, Flight] = {}
        self._newest: Flight | None = None
        self._durable = CheckpointId.parse(hello.parent) if hello.parent is not None else None
        self._decided: list[Outcome] = []
        self._deaths, self._delays = 0, Delays()
        self._uploads = Uploads(hello.mirrors, self._hear_all)
        self._fencing = Fencing(chosen_mode(), warn)
        self._fenced: tuple[Flight, Fence] | None = None
        self._completing = threading.RLock()
        self._instead: Blocking | None = None
        self._told_of_room = self._closed = False
        self._start(legacy)

    # -- the contract of a way ---------------------------------------------------------

    def has_room(self) -> bool:
        if self._instead is not None or self._on_busy == "wait" or self._may_fly:
            return True
        self._listen(0.0)
        return self._may_fly or (self._on_busy == "replace" and self._withdraw_newest())

    def submit(self, draft: Draft, tags: Sequence[str], *, urgent: bool, versions: Versions) -> None:
        self._close_fence()
        details = encode_details(draft)
        if self._closed and self._instead is None:  # a session that another one has taken over
            self._instead = Blocking(self._persister(self._newest_durable()))
        flight = self._stage(draft, details, versions, tags, durable=True, urgent=urgent)
        if flight is None and self._instead is not None:
            self._instead.submit(draft, tags, urgent=urgent, details=details)

    def keep(self, draft: Draft, *, versions: Versions) -> None:
        self._close_fence()
        self._listen(0.0)
        if self._closed or self._instead is not None:
            return
        flight = self._stage(draft, encode_details(draft), versions, (), durable=False, urgent=False)
        if flight is None and self._instead is None and not self._told_of_room:
            self._told_of_room = True
            self._warn("there is no memory to hold a snapshot while the next is taken: some are left out.")

    def prepare(self, size_bytes: Callable[[], int]) -> None:
        if self._instead is None and not self._closed:
            self._slots.prepare(self._busy_slots(), size_bytes())

    def before_step(self) -> None:
        fenced, started = self._fenced, time.monotonic()
        self._close_fence()
        if fenced is not None:
            fenced[0].stall_seconds += time.monotonic() - started

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

    def wait_uploaded(self, sequence: int, timeout_seconds: float | None) -> bool:
        if self._instead is not None:
            raise UsageError("Nothing is brought to a mirror any more.", do="Start the training again.")
        return self._uploads.wait(sequence, timeout_seconds, lambda: self._instead is not None)

    def close(self, *, done: bool) -> None:
        self._close_fence()
        self._listen(0.0)  # the agent may have died since, and nobody has noticed
        while self._is_owed() and self._agent.begun and not self._has_heir():
            self._listen(0.0)
        if done and self._agent.begun:
            self._uploads.say_lacking(self._run, self._hello.attempt)
        self._agent.end(done=done)
        self._newest = self._spared = None
        self._slots.close()
        self._closed = True

    def _has_heir(self) -> bool:  # what is staged must have an owner before this one lets go
        return self._is_linked(_WAIT_SECONDS) and self._agent.survives()

    def _is_owed(self) -> bool:
        return bool(self._flights) or (self._newest is not None and not self._newest.durable)

    # -- staging -----------------------------------------------------------------------

    def _stage(
        self,
        draft: Draft,
        details: Details,
        versions: Versions,
        tags: Sequence[str],
        *,
        durable: bool,
        urgent: bool,
    ) -> Flight | None:
        """Copy the draft and hand it over; None if there is no memory for it."""
        started = time.monotonic()
        layout = self._placing.layout(draft.sources, draft.left_out)
        tensors_bytes, record = layout.size_bytes, record_of(draft, details, layout)
        number = self._take_slot(tensors_bytes + len(record), wait=durable)
        if number is None:
            return None
        slot, usable, compare = self._slots[number], self._fencing.usable(versions), self._fencing.compares
        fence = stage(
            draft.sources, layout.places, slot, usable, compare=compare, device_bytes=self._device_bytes
        )
        slot.memory[tensors_bytes : tensors_bytes + len(record)] = memoryview(record)
        draft.sources = layout.sources(slot)
        staged = messages.Staged(
            draft.sequence, draft.progress.step, number, tensors_bytes, len(record), tuple(tags), durable
        )
        flight = Flight(draft, details, staged, urgent, time.monotonic() - started, time.monotonic())
        if durable:
            self._flights[draft.sequence] = flight
        self._fenced = flight, fence  # known before anybody may have to save it here
        self._slots.prepare(self._busy_slots() | {number}, tensors_bytes + len(record))
        self._is_linked(0.0)
        if fence.done:
            self._complete()
        else:
            fence.begin(self._complete)
        return flight

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
            (flight, fence), self._fenced = self._fenced, None
            compared, sequence = self._fencing.compares, flight.draft.sequence
            if flight.staged.durable and sequence not in self._flights:
                return  # given up
            if fence.is_whole and (self._fencing.judge(fence.held(), guards=fence.guards) or compared):
                flight.complete, self._newest, self._spared = True, flight, None
                with suppress(ChannelClosedError):  # a successor of the agent is told later
                    self._agent.say(flight.staged)
                return
            if self._flights.pop(sequence, None) is not None:
                self._decided.append(torn(sequence) if fence.is_whole else uncopied(sequence, fence.failure))

    @property
    def _may_fly(self) -> bool:
        return len(self._flights) < min(IN_FLIGHT, self._slots.limit)

    def _take_slot(self, need_bytes: int, *, wait: bool) -> int | None:
        """A slot that is free and large enough, if need be after a wait; None if there is no memory."""
        while self._instead is None:
            if self._may_fly or not wait:
                try:
                    number = self._slots.take(self._busy_slots(), need_bytes, self._spared_slot())
                except MemoryError as lacking:
                    need = f"{lacking.args[0] / 1e6:.0f} MB of memory"
                    self._save_by_itself(f"saving in the background needs {need}, which is not there")
                    return None
                if number is not None:
                    self._reclaim(number)
                if number is not None or not wait:
                    return number if self._instead is None else None  # nobody could be told of it any more
                if not self._flights and self._newest is not None:  # it fills all the memory there is
                    self._spared, self._newest = self._newest.slot, None
                    continue
            self._listen(_WAIT_SECONDS)
        return None

    def _busy_slots(self) -> set[int]:
        owed = [self._newest] if self._newest is not None and not self._newest.durable else []
        return {flight.slot for flight in (*list(self._flights.values()), *owed)}

    def _spared_slot(self) -> int | None:
        """Where the newest snapshot is, if it is durable: a restart from memory is faster than from disk."""
        return self._newest.slot if self._newest is not None else self._spared

    def _reclaim(self, number: int) -> None:
        if number == self._spared_slot():
            self._newest = self._spared = None
            self._say(messages.Reclaim(number))

    # -- the agent ---------------------------------------------------------------------

    def _start(self, legacy: Legacy | None = None) -> None:
        """Start an agent now, so that the first save need not wait for it."""
        parent = self._newest_durable()
        hello = msgspec.structs.replace(self._hello, parent=str(parent) if parent is not None else None)
        try:
            self._agent.begin(hello, legacy.channel if legacy is not None else None)
        except (AgentUnavailableError, OSError) as error:
            self._save_by_itself(f"no agent can be started ({error})")

    def _is_linked(self, wait_seconds: float) -> bool:
        """Whether there is an agent."""
        try:
            with self._completing:
                return self._agent.ready(wait_seconds)
        except (AgentUnavailableError, OSError) as error:
            self._save_by_itself(f"no agent can be started ({error})")
        except ChannelClosedError:
            self._agent_died()
        return False

    def _everything(self) -> Iterator[Telling]:
        """All slots and complete snapshots; called while none can become complete."""
        for number, slot in self._slots:
            yield messages.NewSlot(number), [slot.descriptor]
        newest, flights = self._newest, [f for f in self._flights.values() if f.complete]
        for flight in flights:
            yield flight.staged, []
        if newest is not None and not newest.durable and newest not in flights:
            yield msgspec.structs.replace(newest.staged, durable=False), []  # what comes last is the newest

    def _newest_durable(self) -> CheckpointId | None:
        return newest(self._run, self._hello.attempt) or self._durable  # as far as it was told

    def _say(self, message: messages.Message, descriptors: Sequence[int] = ()) -> None:
        try:
            self._agent.say(message, descriptors)
        except ChannelClosedError:
            self._agent_died()

    def _listen(self, wait_seconds: float) -> None:
        """Take what the agent says; wait for the first message if anything is on its way."""
        if self._is_owed():
            self._hear_all(wait_seconds)
            self._give_up_late_ones()

    def _hear_all(self, wait_seconds: float) -> None:
        if not self._is_linked(wait_seconds):
            return
        deaths = self._deaths
        try:
            while self._agent.begun and self._deaths == deaths:
                message = self._agent.hear(wait_seconds)
                if message is None:
                    break
                self._heard(message)
                wait_seconds = 0.0
        except ChannelClosedError:
            self._agent_died()

    def _heard(self, message: messages.Message) -> None:
        if isinstance(message, messages.Told):
            self._warn(message.text)
        elif isinstance(message, messages.Uploaded):
            self._uploads.note(message.place, message.sequence)
        elif isinstance(message, messages.Withdrawn):
            flight = self._flights.pop(message.sequence, None)
            if flight is not None:
                self._newest = None if flight is self._newest else self._newest  # its slot is free
                self._decided.append(Outcome(sequence=message.sequence, replaced=True))
        elif isinstance(message, messages.Done) and message.sequence in self._flights:
            self._deaths = 0
            flight = self._flights.pop(message.sequence)
            flight.durable = message.checkpoint is not None
            decided = outcome(message, flight)
            self._durable = decided.checkpoint or self._durable
            self._decided.append(decided)

    def _give_up_late_ones(self) -> None:
        overdue = self._delays.overdue(list(self._flights.values()), DEADLINE_SECONDS)
        if not overdue or not self._agent.begun:
            return
        self._agent.kill()
        for flight in overdue:
            del self._flights[flight.draft.sequence]
            self._decided.append(late(flight, self._run, DEADLINE_SECONDS))
        self._agent_died()

    def _agent_died(self) -> None:
        """Nothing is lost: the snapshots are in this process's memory, too."""
        self._agent.end()
        self._deaths += 1
        self._decided += landed(self._run, self._hello.attempt, self._flights, self._persister)
        if self._deaths > PATIENCE_DEATHS:
            self._save_by_itself("its agent keeps dying")
            return
        self._warn("the process that saves in the background has died; another one goes on with its work.")
        self._start()

    def _save_by_itself(self, why: str) -> None:
        """From now on save in this process, beginning with what is on its way."""
        self._close_fence()
        self._warn(f"{why}; saves hold up training from now on.")
        self._agent.end()
        self._instead = Blocking(self._persister(self._newest_durable()))
        hand_over(list(self._flights.values()), self._instead, self._run, self._newest_durable())
        self._flights.clear()
        self._newest = self._spared = None
        self._slots.close()

    def _withdraw_newest(self) -> bool:
        """Make room by forgetting the newest snapshot that nobody asked for and that is not begun."""
        waiting = [f for f in list(self._flights.values()) if not f.urgent]
        if not waiting:
            return False
        sequence = waiting[-1].draft.sequence
        self._say(messages.Withdraw(sequence))
        deadline = time.monotonic() + _WAIT_SECONDS
        while sequence in self._flights and time.monotonic() < deadline:
            self._listen(_WAIT_SECONDS)
        return self._may_fly
