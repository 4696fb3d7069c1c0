"""The agent's loop: one trainer at a time, its messages, its death, and when to end."""

from __future__ import annotations

import contextlib
import os
import resource
import select
import signal
import socket
import time
from contextlib import suppress

from holdfast.agent.errands import LOOK_SECONDS as ERRAND_SECONDS
from holdfast.agent.errands import Errand, Rounds, errands_of
from holdfast.agent.holdings import Holdings
from holdfast.agent.work import Worker
from holdfast.node.arena import Slot
from holdfast.node.channel import Channel, ChannelClosedError, listen
from holdfast.node.eventlog import event_log
from holdfast.node.memory import SPARE_BYTES, available_bytes
from holdfast.node.messages import (
    Done,
    Finish,
    Hello,
    Inherit,
    Look,
    Message,
    NewSlot,
    Reclaim,
    Refused,
    Staged,
    ToAgent,
    Welcome,
    Withdraw,
    Withdrawn,
)
from holdfast.version import __version__

NICE = 5
"""Beside a busy trainer hashing is about half as fast as at 0; at 19 it would be a sixth."""
UNCALLED_SECONDS = 60.0
LOOK_SECONDS = 5.0
"""How often, when the trainer is dead, to see whether there still is memory for what it left."""
LISTEN_SECONDS = 10.0
"""How long an address may stay taken by an agent that is just ending."""


class Agent:
    """Serves one run on this machine.

    It ends when the trainer has said that it is done and all that was staged is durable. A trainer
    that dies without a word may have a successor: its newest snapshot is made durable, and kept in
    memory for some time. The trainer's death is proved by its process, never by an end of file: a
    forked data worker may hold its descriptors.
    """

    def __init__(self, listener: socket.socket, starter_pid: int, call_off: int) -> None:
        self._listener = listener
        self._trainer: Channel | None = None
        self._life = _Life(starter_pid)
        self._call_off: int | None = call_off
        self._holdings = Holdings()
        self._memory_seconds = 0.0
        self._memory_until = 0.0
        self._waiting: list[Channel] = []
        self._heirs: dict[Channel, bool] = {}
        self._called = time.monotonic()
        self._ended = self._life.over
        self._woken, self._wake = os.pipe()
        os.set_blocking(self._wake, False)
        self._log = event_log(os.environ, "agent", lambda text: None)
        self._worker = Worker(self._tell, self._awake, self._log)
        self._rounds: list[Rounds] = []

    def serve(self) -> None:
        """Until nobody needs it any more."""
        while not self._over():
            poll = select.poll()
            for descriptor in self._watched():
                poll.register(descriptor, select.POLLIN)
            ready = {descriptor for descriptor, _ in poll.poll(self._pause_seconds() * 1000)}
            self._look(ready)
            for rounds in self._rounds:
                rounds.look(idle=self._worker.idle)
            if self._ended:
                self._keep()
        self._listener.close()
        for rounds in self._rounds:
            rounds.end()

    def _pause_seconds(self) -> float:
        pause_seconds = LOOK_SECONDS if self._ended else UNCALLED_SECONDS
        return ERRAND_SECONDS if any(rounds.is_open for rounds in self._rounds) else pause_seconds

    def _over(self) -> bool:
        if self._trainer is not None or self._heirs or not self._worker.idle or self._is_called():
            return False
        if self._ended:
            return not self._holdings.any_kept or time.monotonic() >= self._memory_until
        return time.monotonic() - self._called >= UNCALLED_SECONDS

    def _is_called(self) -> bool:
        """Whether somebody has said something that was not heard yet: a trainer may be dead by then."""
        callers = [self._listener.fileno(), *(channel.fileno() for channel in self._waiting)]
        return any(_is_readable(descriptor, 0.0) for descriptor in callers)

    def _watched(self) -> list[int]:
        callers = [*self._waiting, *([self._trainer] if self._trainer is not None else [])]
        found = [self._listener.fileno(), self._woken, *(channel.fileno() for channel in callers)]
        if not self._ended and self._life.descriptor is not None:
            found.append(self._life.descriptor)
        return found + ([self._call_off] if self._call_off is not None else [])

    def _look(self, ready: set[int]) -> None:
        if self._woken in ready:
            os.read(self._woken, 4096)
        if self._trainer is not None and self._trainer.fileno() in ready:
            self._hear(self._trainer)
        if not self._ended and self._life.descriptor in ready:
            self._let_go()
        if self._call_off is not None and self._call_off in ready:
            os.close(self._call_off)
            self._call_off, self._ended = None, self._ended or self._trainer is None
        for channel in [c for c in self._waiting if c.fileno() in ready]:
            self._called_by(channel)
        if self._listener.fileno() in ready:
            self._accept()

    # -- after the trainer -------------------------------------------------------------

    def _let_go(self) -> None:
        """The trainer is gone; what it staged complete is made durable all the same."""
        trainer = self._trainer
        if trainer is not None:
            with suppress(ChannelClosedError):  # its last words, which came before its death
                self._listen(trainer)
            trainer.close()
        self._trainer, self._ended = None, True
        self._memory_until = time.monotonic() + self._memory_seconds
        self._save_newest(failed_seconds_ago=0.0)

    def _save_newest(self, *, failed_seconds_ago: float) -> None:
        unsaved = self._holdings.take_unsaved(failed_seconds_ago=failed_seconds_ago)
        if unsaved is not None:
            self._worker.add(unsaved)

    def _keep(self) -> None:
        """See to what the trainer left, while there is memory for it; answer successors."""
        self._save_newest(failed_seconds_ago=LOOK_SECONDS)
        if available_bytes() < SPARE_BYTES:
            self._memory_until = 0.0
        if self._worker.idle:
            for heir in [heir for heir, answered in self._heirs.items() if not answered]:
                self._bequeath(heir)

    def _bequeath(self, heir: Channel) -> None:
        # The trainer before, or an heir before this one, may be stopped: waking up, it would write.
        alone = self._life.over or self._life.pid == heir.peer_pid
        message, descriptors = self._holdings.inheritance(alone=alone)
        self._heirs[heir] = True
        self._follow(heir)
        with suppress(ChannelClosedError):
            heir.send(message, descriptors)

    def _follow(self, channel: Channel) -> None:
        """The memory is this process's from now on."""
        self._life.close()
        self._life = _Life(channel.peer_pid)

    # -- who calls ---------------------------------------------------------------------

    def _accept(self) -> None:
        connection, _ = self._listener.accept()
        channel = Channel(connection, ToAgent)
        if channel.belongs_to_this_user():
            self._waiting.append(channel)
        else:
            channel.close()

    def _called_by(self, channel: Channel) -> None:
        """A caller says what it is: a trainer, one to be, or one who waits for the end of this process."""
        try:
            received = channel.receive()
        except ChannelClosedError:
            self._forget(channel)
            channel.close()
            return
        if received is None:
            return
        message = received[0]
        if isinstance(message, Finish):  # the end of this process is the answer
            self._let_go()
            self._memory_until = 0.0
            self._heirs.pop(channel, None)
            return
        why = self._objection(message)
        if isinstance(message, Look):
            self._dismiss(channel, self._holdings.seen(serving=self._trainer is not None))
        elif why is not None:
            self._dismiss(channel, Refused(why))
        elif isinstance(message, Hello):
            self._take(channel, message)
        else:  # the trainer before may be stopped, but it has lost its lease
            self._let_go()
            self._heirs[channel] = False

    def _forget(self, channel: Channel) -> None:
        self._heirs.pop(channel, None)
        self._waiting.remove(channel)

    def _dismiss(self, channel: Channel, answer: Message) -> None:
        self._forget(channel)
        with suppress(ChannelClosedError):
            channel.send(answer)
        channel.close()

    def _objection(self, message: Message) -> str | None:
        if not isinstance(message, Hello | Inherit):
            return "it did not introduce itself"
        if message.version != __version__:
            return f"this agent is of version {__version__}"
        serving = self._trainer is not None and isinstance(message, Hello)
        return "another trainer is served" if serving else None

    def _take(self, channel: Channel, hello: Hello) -> None:
        self._forget(channel)
        with suppress(ChannelClosedError):
            channel.send(Welcome(os.getpid()))
        self._holdings.drop_unsaved()
        self._follow(channel)
        self._trainer, self._ended = channel, False
        self._memory_seconds = hello.memory_seconds
        self._take_errands(errands_of(hello))
        self._worker.add(hello)
        if self._life.over:
            self._let_go()

    def _take_errands(self, errands: list[Errand]) -> None:
        kept = errands == [rounds.errand for rounds in self._rounds]
        for rounds in self._rounds:
            rounds.serve_another() if kept else rounds.end()
        if not kept:
            self._rounds = [Rounds(errand, self._tell, self._log) for errand in errands]

    # -- what the trainer says ---------------------------------------------------------

    def _hear(self, trainer: Channel) -> None:
        try:
            self._listen(trainer)
        except ChannelClosedError:
            self._let_go()

    def _listen(self, trainer: Channel) -> None:
        received = trainer.receive()
        while received is not None:
            self._act(trainer, *received)
            received = trainer.receive()

    def _act(self, trainer: Channel, message: Message, descriptors: list[int]) -> None:
        if isinstance(message, NewSlot) and len(descriptors) == 1 and message.number <= len(self._holdings):
            self._holdings.put(message.number, Slot(descriptors[0]))
        elif isinstance(message, Staged) and message.slot in self._holdings:
            self._holdings.staged(message)
            if message.durable:
                self._worker.add((message, self._holdings[message.slot]))
        elif isinstance(message, Withdraw):
            if self._worker.withdraw(message.sequence):
                self._holdings.withdrawn(message.sequence)
                trainer.send(Withdrawn(message.sequence))
        elif isinstance(message, Reclaim):
            self._holdings.reclaimed(message.slot)
        elif isinstance(message, Finish):
            self._memory_seconds = 0.0
        else:
            raise ChannelClosedError

    def _tell(self, message: Message) -> None:
        if isinstance(message, Done):
            self._holdings.decided(message)
            for rounds in self._rounds if message.checkpoint is not None else ():
                rounds.committed(message.sequence)
        trainer = self._trainer
        if trainer is not None:
            with suppress(ChannelClosedError):
                trainer.send(message)

    def _awake(self) -> None:
        with contextlib.suppress(BlockingIOError):
            os.write(self._wake, b".")


class _Life:
    """A process, and a descriptor that tells of its death."""

    def __init__(self, pid: int) -> None:
        self.pid = pid
        try:
            self.descriptor: int | None = os.pidfd_open(pid)
        except OSError:  # it is dead already
            self.descriptor = None

    @property
    def over(self) -> bool:
        return self.descriptor is None or _is_readable(self.descriptor, 0.0)

    def close(self) -> None:
        if self.descriptor is not None:
            os.close(self.descriptor)
            self.descriptor = None


def _is_readable(descriptor: int, wait_seconds: float) -> bool:
    poll = select.poll()
    poll.register(descriptor, select.POLLIN)
    return bool(poll.poll(wait_seconds * 1000))


def main(address: bytes, starter_pid: int, call_off: int, listening: int | None = None) -> None:
    """Serve at an address until nobody needs it.

    Parameters
    ----------
    address : bytes
        From `holdfast.node.channel.address`.
    starter_pid : int
        The process that wants it; if it dies before it calls, nobody will.
    call_off : int
        Reading end of a pipe on which that process says that it wants it no more.
    listening : int, optional
        A socket that listens at the address already, with that process as its first caller.
    """
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP, signal.SIGUSR1):
        signal.signal(number, signal.SIG_IGN)  # meant for the trainer, which says when to end
    with suppress(OSError):
        os.nice(NICE)
    with suppress(OSError, ValueError):  # snapshots and keys are in its memory
        resource.setrlimit(resource.RLIMIT_CORE, (0, resource.getrlimit(resource.RLIMIT_CORE)[1]))
    listener = socket.socket(fileno=listening) if listening is not None else _listening(address, call_off)
    if listener is not None:
        Agent(listener, starter_pid, call_off).serve()


def _listening(address: bytes, call_off: int) -> socket.socket | None:
    """Listen there once whoever does now has ended; None if that takes too long, or nobody wants it."""
    deadline = time.monotonic() + LISTEN_SECONDS
    listener = listen(address)
    while listener is None and time.monotonic() < deadline and not _is_readable(call_off, 0.02):
        listener = listen(address)
    return listener
