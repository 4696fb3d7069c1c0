"""The agent's loop: one trainer at a time, its messages, its death, and when to end."""

from __future__ import annotations

import contextlib
import os
import select
import signal
import socket
import time
from contextlib import suppress

from holdfast.agent.work import Worker
from holdfast.node.arena import Slot
from holdfast.node.channel import Channel, ChannelClosedError, listen
from holdfast.node.messages import (
    Finish,
    Hello,
    Message,
    NewSlot,
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
LISTEN_SECONDS = 10.0
"""How long an address may stay taken by an agent that is just ending."""


class Agent:
    """Serves one run on this machine.

    It ends when the trainer is gone and all that was staged is durable. The trainer's death is
    proved by its process, never by an end of file: a forked data worker may hold its descriptors.
    """

    def __init__(self, listener: socket.socket, starter_pid: int, call_off: int) -> None:
        self._listener = listener
        self._trainer: Channel | None = None
        self._life = _watch(starter_pid)
        self._call_off: int | None = call_off
        self._slots: dict[int, Slot] = {}
        self._waiting: list[Channel] = []
        self._called = time.monotonic()
        self._ended = self._life is None
        self._woken, self._wake = os.pipe()
        os.set_blocking(self._wake, False)
        self._worker = Worker(self._tell, self._awake)

    def serve(self) -> None:
        """Until nobody needs it any more."""
        while not self._over():
            poll = select.poll()
            for descriptor in self._watched():
                poll.register(descriptor, select.POLLIN)
            ready = {descriptor for descriptor, _ in poll.poll(UNCALLED_SECONDS * 1000)}
            self._look(ready)
        self._listener.close()

    def _over(self) -> bool:
        if self._trainer is not None or not self._worker.idle:
            return False
        return self._ended or time.monotonic() - self._called >= UNCALLED_SECONDS

    def _watched(self) -> list[int]:
        found = [self._listener.fileno(), self._woken, *(channel.fileno() for channel in self._waiting)]
        if self._trainer is not None:
            found.append(self._trainer.fileno())
        found += [d for d in (self._life, self._call_off) if d is not None]
        return found

    def _look(self, ready: set[int]) -> None:
        if self._woken in ready:
            os.read(self._woken, 4096)
        if self._trainer is not None and self._trainer.fileno() in ready:
            self._hear(self._trainer)
        if self._life is not None and self._life in ready:
            self._let_go()
        if self._call_off is not None and self._call_off in ready:
            os.close(self._call_off)
            self._call_off, self._ended = None, True
        for channel in [c for c in self._waiting if c.fileno() in ready]:
            self._introduced(channel)
        if self._listener.fileno() in ready:
            self._accept()

    # -- who calls ---------------------------------------------------------------------

    def _accept(self) -> None:
        connection, _ = self._listener.accept()
        channel = Channel(connection, ToAgent)
        if channel.belongs_to_this_user():
            self._waiting.append(channel)
        else:
            channel.close()

    def _introduced(self, channel: Channel) -> None:
        """The first message of a caller says what it is: the trainer, or one who waits for the end."""
        try:
            received = channel.receive()
        except ChannelClosedError:
            self._waiting.remove(channel)
            channel.close()
            return
        if received is None:
            return
        if isinstance(received[0], Finish):  # the end of this process is the answer
            if self._trainer is not None:  # it may be stopped, but it has lost its lease
                self._hear(self._trainer)
            self._let_go()
            return
        self._waiting.remove(channel)
        message = received[0]
        why = self._objection(message)
        with suppress(ChannelClosedError):
            channel.send(Welcome(os.getpid()) if why is None else Refused(why))
        if why is None:
            self._take(channel, message)
        else:
            channel.close()

    def _objection(self, message: Message) -> str | None:
        if not isinstance(message, Hello):
            return "it did not introduce itself"
        if message.version != __version__:
            return f"this agent is of version {__version__}"
        return "another trainer is served" if self._trainer is not None else None

    def _take(self, channel: Channel, hello: Hello) -> None:
        if self._life is not None:
            os.close(self._life)
        self._trainer, self._ended, self._life = channel, False, _watch(channel.peer_pid)
        self._worker.add(hello)
        if self._life is None:
            self._let_go()

    def _let_go(self) -> None:
        """The trainer is gone; what it staged complete is made durable all the same."""
        if self._life is not None:
            os.close(self._life)
        trainer, self._trainer, self._life = self._trainer, None, None
        self._ended = True
        if trainer is not None:
            trainer.close()

    # -- what it says ------------------------------------------------------------------

    def _hear(self, trainer: Channel) -> None:
        try:
            received = trainer.receive()
            while received is not None:
                self._act(trainer, *received)
                received = trainer.receive()
        except ChannelClosedError:
            self._let_go()

    def _act(self, trainer: Channel, message: Message, descriptors: list[int]) -> None:
        if isinstance(message, NewSlot) and len(descriptors) == 1:
            old = self._slots.get(message.number)
            self._slots[message.number] = Slot(descriptors[0])
            if old is not None:
                old.close()
        elif isinstance(message, Staged) and message.slot in self._slots:
            self._worker.add((message, self._slots[message.slot]))
        elif isinstance(message, Withdraw):
            if self._worker.withdraw(message.sequence):
                trainer.send(Withdrawn(message.sequence))
        else:
            raise ChannelClosedError

    def _tell(self, message: Message) -> None:
        trainer = self._trainer
        if trainer is not None:
            with suppress(ChannelClosedError):
                trainer.send(message)

    def _awake(self) -> None:
        with contextlib.suppress(BlockingIOError):
            os.write(self._wake, b".")


def _watch(pid: int) -> int | None:
    """A descriptor that tells of a process's death; None if it is dead already."""
    try:
        return os.pidfd_open(pid)
    except OSError:
        return None


def _is_called_off(call_off: int, wait_seconds: float) -> bool:
    poll = select.poll()
    poll.register(call_off, select.POLLIN)
    return bool(poll.poll(wait_seconds * 1000))


def main(address: bytes, starter_pid: int, call_off: int) -> None:
    """Serve at an address until nobody needs it.

    Parameters
    ----------
    address : bytes
        From `holdfast.node.channel.address`.
    starter_pid : int
        The process that wants it; if it dies before it calls, nobody will.
    call_off : int
        Reading end of a pipe on which that process says that it wants it no more.
    """
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP, signal.SIGUSR1):
        signal.signal(number, signal.SIG_IGN)  # meant for the trainer, which says when to end
    with suppress(OSError):
        os.nice(NICE)
    deadline = time.monotonic() + LISTEN_SECONDS
    listener = listen(address)
    while listener is None and time.monotonic() < deadline and not _is_called_off(call_off, 0.02):
        listener = listen(address)
    if listener is not None:
        Agent(listener, starter_pid, call_off).serve()
