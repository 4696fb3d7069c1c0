"""With an agent: whichever there is now. One that has just come to be is told everything first."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from contextlib import suppress
from typing import TYPE_CHECKING

from holdfast.node.channel import ChannelClosedError
from holdfast.node.link import Link
from holdfast.node.messages import Finish, Hello, Message

if TYPE_CHECKING:
    from holdfast.node.channel import Channel

Telling = tuple[Message, Sequence[int]]
"""A message, and the descriptors that go with it."""


class Conversation:
    """What the trainer says to its agent, and hears from it.

    Parameters
    ----------
    address : bytes
        Where the agent listens.
    everything : callable
        Gives what an agent has to be told that knows nothing yet.
    """

    def __init__(self, address: bytes, everything: Callable[[], Iterable[Telling]]) -> None:
        self._address = address
        self._everything = everything
        self._link: Link | None = None
        self._knows_all = False

    @property
    def begun(self) -> bool:
        """Whether there is an agent, or one is on its way."""
        return self._link is not None

    def begin(self, hello: Hello, left: Channel | None = None) -> None:
        """Start an agent, or go on with one that a trainer before has left.

        Raises
        ------
        AgentUnavailableError
        """
        self._link = Link(self._address, hello, left)
        self._knows_all = self._link.taken_over

    def ready(self, wait_seconds: float) -> bool:
        """Whether the agent is there, or comes within this time.

        Raises
        ------
        AgentUnavailableError, ChannelClosedError
        """
        if self._link is None:
            return False
        if self._link.hears:
            self._tell_all(self._link)
        if not self._link.approach(wait_seconds):
            return False
        self._tell_all(self._link)
        return True

    def _tell_all(self, link: Link) -> None:
        if not self._knows_all:
            for message, descriptors in self._everything():
                link.send(message, descriptors)
            self._knows_all = True

    def say(self, message: Message, descriptors: Sequence[int] = ()) -> None:
        """Tell the agent; nothing if it is not there: then it is told everything once it is.

        Raises
        ------
        ChannelClosedError
            It has died.
        """
        if self._link is not None and self._knows_all:
            self._link.send(message, descriptors)

    def hear(self, wait_seconds: float) -> Message | None:
        """What the agent says, if it says something within this time.

        Raises
        ------
        ChannelClosedError
            It has died.
        """
        return self._link.receive(wait_seconds) if self._link is not None else None

    def survives(self) -> bool:
        """Whether the agent, which is `ready`, lives: what it was told has an owner besides this process."""
        return self._link is not None and self._link.survives()

    def kill(self) -> None:
        """Put an end to an agent that does not answer."""
        if self._link is not None:
            self._link.kill()

    def end(self, *, done: bool = False) -> None:
        """Hang up.

        Parameters
        ----------
        done : bool
            Let the agent end once all is durable, instead of waiting for a successor of this trainer.
        """
        link, self._link = self._link, None
        if link is None:
            return
        if done and self._knows_all:
            with suppress(ChannelClosedError):
                link.send(Finish())
        link.close()
