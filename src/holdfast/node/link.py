"""The trainer's side of its agent: start one, or go on with one that is there; talk to it."""

from __future__ import annotations

import os
import signal
import time
from contextlib import suppress
from typing import TYPE_CHECKING

from holdfast.node.channel import Channel, ChannelClosedError, ChannelFullError, connect, listen
from holdfast.node.legacy import LOOK_SECONDS, look
from holdfast.node.messages import Hello, Refused, ToTrainer, Welcome
from holdfast.node.spawning import spawn_agent

if TYPE_CHECKING:
    from collections.abc import Sequence

    from holdfast.node.messages import Message

START_SECONDS = 30.0
LEFT_SECONDS = 5.0
"""How long an agent that waits for a trainer may take to answer one."""
_PAUSE_SECONDS = 0.01


class AgentUnavailableError(Exception):
    """No agent can be had; says why."""


class Link:
    """The connection to an agent that is being started, or that a trainer before has left.

    Parameters
    ----------
    address : bytes
        Where it listens.
    hello : Hello
        How this trainer introduces itself.
    left : Channel, optional
        Connection to an agent that waits for a trainer; owned from now on.

    Raises
    ------
    AgentUnavailableError
        No process can be started.
    """

    def __init__(self, address: bytes, hello: Hello, left: Channel | None = None) -> None:
        self._address = address
        self._hello = hello
        self._channel: Channel | None = None
        self._starter: _Starter | None = None
        self._is_ours = False
        """Whether nobody but the agent that was started here can have taken the connection."""
        self._agent_pid: int | None = None
        self._why = "it does not answer"
        self._deadline = time.monotonic() + START_SECONDS
        if left is None or not self._taken_by(left):
            self._begin()

    def _begin(self) -> None:
        """Start an agent, and call it before it is there: it hears what is said even if this process dies."""
        listener = listen(self._address)
        if listener is None:  # one that is just ending has the address
            self._starter = _Starter(self._address, None)
            return
        with listener:
            self._starter = _Starter(self._address, listener.fileno())
            self._call()
            self._is_ours = self._channel is not None

    def _call(self) -> None:
        self._channel = connect(self._address, ToTrainer)
        if self._channel is not None:
            self._channel.send(self._hello)

    def _taken_by(self, left: Channel) -> bool:
        """Introduce this trainer to an agent that is there; whether it is taken."""
        self._channel = left
        try:
            left.send(self._hello)
            answer = left.receive(LEFT_SECONDS)
        except ChannelClosedError:
            answer = None
        if answer is None or not isinstance(answer[0], Welcome):
            self._drop()
            return False
        self._agent_pid = answer[0].pid
        return True

    @property
    def taken_over(self) -> bool:
        """Whether it is the agent of a trainer before, which has its slots already."""
        return self._starter is None

    @property
    def hears(self) -> bool:
        """Whether what is sent now reaches the agent, be it there or still to come."""
        return self.ready or (self._is_ours and self._channel is not None)

    @property
    def ready(self) -> bool:
        """Whether the agent has taken this trainer."""
        return self._agent_pid is not None

    def approach(self, wait_seconds: float) -> bool:
        """Go on with getting in touch, for so long at most; whether that has succeeded.

        Raises
        ------
        AgentUnavailableError
            It did not within `START_SECONDS`, or is of another version.
        ChannelClosedError
            It has died at its start.
        """
        until = time.monotonic() + wait_seconds
        while not self.ready:
            left = until - time.monotonic()
            self._step(max(left, 0.0))
            if self.ready or left <= 0:
                break
            time.sleep(min(_PAUSE_SECONDS, left))
        if not self.ready and time.monotonic() > self._deadline:
            raise AgentUnavailableError(self._why)
        return self.ready

    def _step(self, wait_seconds: float) -> None:
        try:
            if self._channel is None:
                self._call()
            received = self._channel.receive(wait_seconds) if self._channel is not None else None
        except ChannelClosedError:
            self._drop()
            if self._is_ours:
                raise
            return  # it was another's, just ending: ours comes
        if received is None:
            return
        if isinstance(received[0], Welcome):
            self._agent_pid = received[0].pid
            return
        self._why = received[0].why if isinstance(received[0], Refused) else self._why
        self._drop()
        if self._is_ours:
            raise AgentUnavailableError(self._why)

    def _drop(self) -> None:
        if self._channel is not None:
            self._channel.close()
            self._channel = None

    def send(self, message: Message, descriptors: Sequence[int] = ()) -> None:
        """Tell the agent, which `hears`; ChannelClosedError if it has died."""
        if self._channel is None:
            raise ChannelClosedError
        try:
            self._channel.send(message, descriptors)
        except ChannelFullError:
            self.kill()  # its address is the next one's
            raise

    def receive(self, wait_seconds: float) -> Message | None:
        """What the agent, which is `ready`, says; ChannelClosedError if it has died."""
        if self._channel is None:
            raise ChannelClosedError
        received = self._channel.receive(wait_seconds)
        message: Message | None = received[0] if received is not None else None
        return message

    def survives(self) -> bool:
        """Whether the agent answers, or at least does not hang up.

        One that has been killed keeps its connection open for as long as it gives back its memory.
        """
        if self._channel is None:
            return False
        return look(self._address) is not None or not self._channel.hung_up(LOOK_SECONDS)

    def kill(self) -> None:
        """End an agent that does not come to an end by itself."""
        if self._agent_pid is not None:
            with suppress(ProcessLookupError):
                os.kill(self._agent_pid, signal.SIGKILL)

    def close(self) -> None:
        """Hang up: the agent ends once all that it was given is durable."""
        self._drop()
        if self._starter is not None:
            self._starter.call_off()


class _Starter:
    """The process that starts an agent, and the pipe by which that is called off."""

    def __init__(self, address: bytes, listener: int | None) -> None:
        called_off, self._call_off = os.pipe()
        try:
            self._process = spawn_agent(address, called_off, listener)
        except OSError as error:
            os.close(self._call_off)
            raise AgentUnavailableError(str(error)) from error
        finally:
            os.close(called_off)

    def call_off(self) -> None:
        """Say that the agent is not wanted, unless it serves somebody by now."""
        with suppress(OSError):  # it may be dead
            os.write(self._call_off, b".")
        os.close(self._call_off)
        self._process.wait()  # it ends at once, having started the agent
