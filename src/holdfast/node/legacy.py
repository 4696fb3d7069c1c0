"""What a trainer leaves behind in memory, and how the next one takes it over."""

from __future__ import annotations

import time
from contextlib import suppress
from typing import TYPE_CHECKING

import msgspec

from holdfast.node.arena import LEFT_OUT, Slot, SlotSource, read_record
from holdfast.node.channel import Channel, ChannelClosedError, connect
from holdfast.node.messages import Finish, Held, Inherit, Inheritance, Look, ToTrainer

if TYPE_CHECKING:
    from holdfast.node.arena import Bytes

LOOK_SECONDS = 2.0


class Legacy:
    """What a trainer of the same run left in memory, and the agent that has kept it.

    Attributes
    ----------
    channel : Channel
        To the agent, which waits for a trainer.
    slots : list[Slot]
    kept : Kept or None
        The newest snapshot, which is durable and in memory.
    lost : str or None
        Why the newest snapshot could not be made durable.
    """

    def __init__(self, channel: Channel, inheritance: Inheritance, descriptors: list[int]) -> None:
        self.channel = channel
        self.slots = [Slot(descriptor, at_once=False) for descriptor in descriptors]
        self.kept = inheritance.kept
        self.lost = inheritance.lost

    def decline(self) -> None:
        """Let the agent end, and the memory go."""
        with suppress(ChannelClosedError):
            self.channel.send(Finish())
        self.channel.close()
        for slot in self.slots:
            slot.close()

    def tensors(self, checkpoint: str) -> dict[str, Bytes]:
        """Bytes of the tensors of this checkpoint that are in memory; not verified."""
        kept = self.kept
        if kept is None or kept.checkpoint != checkpoint or kept.slot >= len(self.slots):
            return {}
        slot = self.slots[kept.slot]
        try:
            places = read_record(slot, kept.start, kept.size_bytes).tensors
        except (ValueError, msgspec.MsgspecError):
            return {}  # overwritten by a crash: the disk has it
        return {
            name: SlotSource(slot, place).read() for name, place in places.items() if place.offset != LEFT_OUT
        }


def inherit(address: bytes, version: str, timeout_seconds: float) -> Legacy | None:
    """Wait until what a trainer before has staged is durable; take over what it left in memory.

    Returns
    -------
    Legacy or None
        None if there is no agent.

    Raises
    ------
    TimeoutError
        It has not come to that in time.
    """
    deadline = time.monotonic() + timeout_seconds
    while (left := deadline - time.monotonic()) > 0:
        channel = connect(address, ToTrainer)
        if channel is None:
            return None
        try:
            channel.send(Inherit(version))
            answer = channel.receive(left)
        except ChannelClosedError:  # it has just ended
            channel.close()
            continue
        if answer is not None and isinstance(answer[0], Inheritance):
            return Legacy(channel, *answer)
        channel.close()
        if answer is not None:  # it is of another version
            if wait_for_agent_of_before(address, left):
                return None
            break
    raise TimeoutError


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


def look(address: bytes) -> Held | None:
    """What the agent holds that listens there; None if there is none, or it does not answer."""
    channel = connect(address, ToTrainer)
    if channel is None:
        return None
    try:
        channel.send(Look())
        answer = channel.receive(LOOK_SECONDS)
    except ChannelClosedError:
        return None
    finally:
        channel.close()
    return answer[0] if answer is not None and isinstance(answer[0], Held) else None
