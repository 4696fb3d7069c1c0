"""The trainer's side of its agent: start one, talk to it, wait for the end of another's."""

from __future__ import annotations

import os
import signal
import time
from contextlib import suppress
from typing import TYPE_CHECKING

from holdfast.node.channel import Channel, ChannelClosedError, connect
from holdfast.node.messages import Finish, Hello, Refused, ToTrainer, Welcome
from holdfast.node.spawning import spawn_agent

if TYPE_CHECKING:
    from collections.abc import Sequence

    from holdfast.node.messages import Message

START_SECONDS = 30.0
_PAUSE_SECONDS = 0.01


class AgentUnavailableError(Exception):
    """No agent can be had; says why."""


class Link:
    """An agent that is being started, and then the connection to it.

    Parameters
    ----------
    address : bytes
        Where it listens.
    hello : Hello
        How this trainer introduces itself.

    Raises
    ------
    AgentUnavailableError
        No process can be started.
    """

    def __init__(self, address: bytes, hello: Hello) -> None:
        self._address = address
        self._hello = hello
        self._channel: Channel | None = None
        self._agent_pid: int | None = None
        self._why = "it does not answer"
        self._deadline = time.monotonic() + START_SECONDS
        called_off, self._call_off = os.pipe()
        try:
            self._starter = spawn_agent(address, called_off)
        except OSError as error:
            os.close(self._call_off)
            raise AgentUnavailableError(str(error)) from error
        finally:
            os.close(called_off)

    @property
    def ready(self) -> bool:
        """Whether the agent has taken this trainer."""
        return self._agent_pid is not None

    def approach(self, wait_seconds: float) -> bool:
        """Go on with getting in touch, for so long at most; whether that has succeeded.

        Raises
        ------
        AgentUnavailableError
            It did not within `START_SECONDS`.
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
                self._channel = connect(self._address, ToTrainer)
                if self._channel is None:
                    return
                self._channel.send(self._hello)
            received = self._channel.receive(wait_seconds)
        except ChannelClosedError:  # it was another's, just ending: ours comes
            self._drop()
            return
        if received is None:
            return
        if isinstance(received[0], Welcome):
            self._agent_pid = received[0].pid
            return
        self._why = received[0].why if isinstance(received[0], Refused) else self._why
        self._drop()

    def _drop(self) -> None:
        if self._channel is not None:
            self._channel.close()
            self._channel = None

    def send(self, message: Message, descriptors: Sequence[int] = ()) -> None:
        """Tell the agent, which is `ready`; ChannelClosedError if it has died."""
        if self._channel is None:
            raise ChannelClosedError
        self._channel.send(message, descriptors)

    def receive(self, wait_seconds: float) -> Message | None:
        """What the agent, which is `ready`, says; ChannelClosedError if it has died."""
        if self._channel is None:
            raise ChannelClosedError
        received = self._channel.receive(wait_seconds)
        message: Message | None = received[0] if received is not None else None
        return message

    def kill(self) -> None:
        """End an agent that does not come to an end by itself."""
        if self._agent_pid is not None:
            with suppress(ProcessLookupError):
                os.kill(self._agent_pid, signal.SIGKILL)

    def close(self) -> None:
        """Hang up: the agent ends once all that it was given is durable."""
        self._drop()
        with suppress(OSError):  # it may be dead
            os.write(self._call_off, b".")
        os.close(self._call_off)
        self._starter.wait()  # it ends at once, having started the agent


def wait_for_agent_of_before(address: bytes, timeout_seconds: float) -> bool:
    """Let an agent that a dead trainer left behind finish what was staged.

    Returns
    -------
    bool
        False if it has not come to an end in time.
    """
    deadline = time.monotonic() + timeout_seconds
    while (left := deadline - time.monotonic()) > 0:
        channel = connect(address, ToTrainer)
        if channel is None:
            return True
        try:
            channel.send(Finish())
            channel.receive(left)
        except ChannelClosedError:
            continue  # it has ended; or another one took its place meanwhile
        finally:
            channel.close()
    return False
