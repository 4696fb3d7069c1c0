"""What a trainer leaves behind in memory, and how the next one takes it over."""

from __future__ import annotations

import time
from contextlib import suppress
from typing import TYPE_CHECKING

import msgspec

from holdfast.node.arena import LEFT_OUT, SMALL_BYTES, Slot, SlotSource, read_record
from holdfast.node.channel import Channel, ChannelClosedError, connect
from holdfast.node.messages import Finish, Held, Inherit, Inheritance, Look, ToTrainer

if TYPE_CHECKING:
    from collections.abc import Mapping

    from holdfast.node.arena import Bytes, Place

LOOK_SECONDS = 2.0


class Remembered:
    """The tensors of a snapshot in a slot, as `repository.recalling.Memory`."""

    def __init__(self, slot: Slot, places: Mapping[str, Place]) -> None:
        self._slot = slot
        self._places = {name: place for name, place in places.items() if place.offset != LEFT_OUT}
        self.tensors = {name: SlotSource(slot, place).read() for name, place in self._places.items()}

    def take(self, name: str) -> Bytes | None:
        """The memory itself, for good; None of small tensors, which share their pages."""
        size_bytes = len(self.tensors[name])
        return self._slot.take(self._places[name].offset, size_bytes) if size_bytes >= SMALL_BYTES else None


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
        kept = inheritance.kept
        self.kept = kept if kept is not None and kept.slot < len(self.slots) else None
        self.lost = inheritance.lost

    def decline(self) -> None:
        """Let the agent end, and the memory go."""
        with suppress(ChannelClosedError):
            self.channel.send(Finish())
        self.channel.close()
        for slot in self.slots:
            slot.let_go()

    def remembered(self, checkpoint: str) -> Remembered | None:
        """The tensors of this checkpoint that are in memory, not verified; None if it is not there."""
        kept = self.kept
        if kept is None or kept.checkpoint != checkpoint:
            return None
        slot = self.slots[kept.slot]
        try:
            return Remembered(slot, read_record(slot, kept.start, kept.size_bytes).tensors)
        except (ValueError, msgspec.MsgspecError):
            return None  # overwritten by a crash: the disk has it

    @property
    def spared(self) -> int | None:
        """The number of the slot that still holds the newest snapshot."""
        return self.kept.slot if self.kept is not None and not self.slots[self.kept.slot].is_taken else None


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
