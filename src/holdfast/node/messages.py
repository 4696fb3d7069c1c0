"""What trainer and agent say to each other: small messages; the snapshots lie in shared memory."""

from __future__ import annotations

import msgspec

from holdfast import errors
from holdfast.domain.keep_rules import KeepRule
from holdfast.domain.mirrors import Mirror
from holdfast.domain.publications import Publication

MAX_MESSAGE_BYTES = 64 * 1024
MAX_DESCRIPTORS = 8
_LONGEST_TEXT = 4000


class Message(msgspec.Struct, frozen=True, tag=True):
    """Base of all messages."""


class Hello(Message, frozen=True):
    """A trainer says for which attempt it saves.

    Attributes
    ----------
    version : str
        Of Holdfast: an agent of another one is not talked to.
    location, run, attempt
    parent : str or None
        Checkpoint that the attempt starts from.
    keep : KeepRule
    memory_seconds : float
        For how long to keep the newest snapshot for a successor, should this trainer die.
    compact : bool
        Compact the run's packs whenever there is nothing else to do.
    mirrors : tuple[Mirror, ...]
        Where to bring each checkpoint as well, and what to keep of them there.
    publish : tuple[Publication, ...]
        Plain files to keep current.
    """

    version: str
    location: str
    run: str
    attempt: str
    parent: str | None
    keep: KeepRule
    memory_seconds: float
    compact: bool = False
    mirrors: tuple[Mirror, ...] = ()
    publish: tuple[Publication, ...] = ()


class NewSlot(Message, frozen=True):
    """Memory for snapshots; its descriptor comes along. Of a number known already, or the next one."""

    number: int


class Staged(Message, frozen=True):
    """A snapshot is complete in a slot.

    Attributes
    ----------
    start, size_bytes : int
        Where its record lies.
    tags : tuple[str, ...]
        Names that the checkpoint gets.
    durable : bool
        Make it durable now; else only if the trainer dies before a newer one is staged.
    """

    sequence: int
    step: int
    slot: int
    start: int
    size_bytes: int
    tags: tuple[str, ...] = ()
    durable: bool = True


class Withdraw(Message, frozen=True):
    """Forget a snapshot, unless it has been begun; answered by `Withdrawn` or, later, by `Done`."""

    sequence: int


class Reclaim(Message, frozen=True):
    """The snapshot in this slot is about to be written over."""

    slot: int


class Finish(Message, frozen=True):
    """Make durable what is staged, then end; the connection closes when that is done."""


class Inherit(Message, frozen=True):
    """A new trainer asks for what the one before has left; answered once all of that is durable.

    Attributes
    ----------
    version : str
        As in `Hello`.
    """

    version: str


class Kept(msgspec.Struct, frozen=True):
    """A snapshot that is durable, and still in memory.

    Attributes
    ----------
    checkpoint : str
        What it has become.
    slot, start, size_bytes : int
        As in `Staged`.
    """

    checkpoint: str
    slot: int
    start: int
    size_bytes: int


class Inheritance(Message, frozen=True):
    """What a trainer has left to the next; the descriptors of its slots come along, by number from 0.

    Attributes
    ----------
    kept : Kept or None
        The newest snapshot.
    lost : str or None
        Why the newest snapshot cannot be resumed from.
    """

    kept: Kept | None = None
    lost: str | None = None


class Look(Message, frozen=True):
    """Somebody asks what is held; answered by `Held`."""


class Held(Message, frozen=True):
    """What an agent holds.

    Attributes
    ----------
    memory_bytes : int
        Of all slots.
    step : int or None
        Of the newest snapshot.
    checkpoint : str or None
        What that has become, if it is durable.
    serving : bool
        Whether the trainer lives.
    """

    memory_bytes: int
    step: int | None
    checkpoint: str | None
    serving: bool


class Welcome(Message, frozen=True):
    """The agent takes the trainer's snapshots."""

    pid: int


class Refused(Message, frozen=True):
    """The agent does not: it serves another trainer, or is of another version."""

    why: str


class Failure(msgspec.Struct, frozen=True):
    """An error, as values."""

    kind: str
    what: str
    do: str | None
    errno: int | None = None


class Done(Message, frozen=True):
    """What became of a snapshot; its slot is free again.

    Attributes
    ----------
    checkpoint : str or None
        Name of the checkpoint, if it is durable.
    failure : Failure or None
        Why it is not.
    untagged : dict[str, Failure]
    size_bytes, new_bytes : int
    seconds, cpu_seconds : float
        What it took the agent.
    """

    sequence: int
    checkpoint: str | None = None
    failure: Failure | None = None
    untagged: dict[str, Failure] = {}
    size_bytes: int = 0
    new_bytes: int = 0
    seconds: float = 0.0
    cpu_seconds: float = 0.0


class Withdrawn(Message, frozen=True):
    """The snapshot is forgotten; its slot is free again."""

    sequence: int


class Uploaded(Message, frozen=True):
    """The checkpoints up to this sequence, or newer ones in their place, are at this mirror."""

    sequence: int
    place: str


class Told(Message, frozen=True):
    """Something a person should know."""

    text: str


ToAgent = Hello | NewSlot | Staged | Withdraw | Reclaim | Finish | Inherit | Look
ToTrainer = Welcome | Refused | Done | Withdrawn | Uploaded | Told | Inheritance | Held


def describe(error: BaseException) -> Failure:
    """An error, to be raised again in another process."""
    if isinstance(error, errors.HoldfastError):
        number = getattr(error, "errno", None)
        return Failure(
            error.kind, error.what[:_LONGEST_TEXT], (error.do or "")[:_LONGEST_TEXT] or None, number
        )
    what = f"The agent failed in a way it should not: {type(error).__name__}: {error}"
    return Failure(errors.StorageError.kind, what[:_LONGEST_TEXT], "Please report this.")


def revive(failure: Failure) -> errors.HoldfastError:
    """The error that `describe` was given."""
    kinds = {kind.kind: kind for kind in errors.HoldfastError.__subclasses__()}
    kind = kinds.get(failure.kind, errors.HoldfastError)
    if issubclass(kind, errors.StorageError):
        return kind(failure.what, do=failure.do, errno=failure.errno)
    return kind(failure.what, do=failure.do)
