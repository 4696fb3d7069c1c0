"""The trainer's side of its agent: start one, find one, wait for the end of another's."""

from __future__ import annotations

import os
import signal
import time
from contextlib import suppress

from holdfast.node.channel import Channel, ChannelClosedError, connect
from holdfast.node.messages import Finish, Hello, Refused, ToTrainer, Welcome
from holdfast.node.spawning import spawn_agent

START_SECONDS = 20.0
_PAUSE_SECONDS = 0.01


class AgentUnavailableError(Exception):
    """No agent can be had; says why."""


class Link:
    """A connection to an agent that has taken this trainer.

    Attributes
    ----------
    channel : Channel
    agent_pid : int
    """

    def __init__(self, channel: Channel, agent_pid: int) -> None:
        self.channel = channel
        self.agent_pid = agent_pid

    @classmethod
    def start(cls, address: bytes, hello: Hello) -> Link:
        """Start an agent and introduce this process to it.

        Raises
        ------
        AgentUnavailableError
        """
        try:
            starter = spawn_agent(address)
        except OSError as error:
            raise AgentUnavailableError(str(error)) from error
        deadline = time.monotonic() + START_SECONDS
        why = "it does not answer"
        try:
            while time.monotonic() < deadline:
                channel = connect(address, ToTrainer)
                answer = None if channel is None else _introduce(channel, hello, deadline)
                if channel is not None and isinstance(answer, Welcome):
                    return cls(channel, answer.pid)
                if channel is not None:
                    channel.close()
                if isinstance(answer, Refused):
                    why = answer.why
                time.sleep(_PAUSE_SECONDS)
        finally:
            starter.wait()
        raise AgentUnavailableError(why)

    def kill(self) -> None:
        """End an agent that does not come to an end by itself."""
        with suppress(ProcessLookupError):
            os.kill(self.agent_pid, signal.SIGKILL)
        self.channel.close()


def _introduce(channel: Channel, hello: Hello, deadline: float) -> Welcome | Refused | None:
    try:
        channel.send(hello)
        received = channel.receive(max(deadline - time.monotonic(), 0.0))
    except ChannelClosedError:
        return None  # it was just ending: another one comes
    return received[0] if received is not None else None


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
