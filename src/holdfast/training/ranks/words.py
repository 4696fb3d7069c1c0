"""What ranks say to one another."""

from __future__ import annotations

import signal
import time
from collections.abc import Iterator, Sequence
from enum import StrEnum

import msgspec

from holdfast import errors
from holdfast.domain.names import CheckpointId
from holdfast.errors import DamagedError, HoldfastError, MismatchError, RankError

LAST_TURN = 0xFFFFFFFF
"""The safe point at the end of a training, wherever each rank is."""
_LONGEST_PAUSE_SECONDS = 0.005
_MOST_CHARACTERS = 1000


class Kind(StrEnum):
    """What rank 0 says; quiet, later and failed are not answered."""

    ATTEMPT = "attempt"
    RESTORE = "restore"
    RESTORED = "restored"
    BEGIN = "begin"
    READY = "ready"
    GO = "go"
    SAVE = "save"
    DONE = "done"
    QUIET = "quiet"
    LATER = "later"
    FAILED = "failed"


class Trouble(msgspec.Struct, frozen=True):
    """An error of another rank."""

    kind: str
    what: str
    do: str | None = None
    proven: bool = False

    @classmethod
    def of(cls, error: BaseException) -> Trouble:
        if not isinstance(error, HoldfastError):
            return cls(RankError.kind, f"It ended by {type(error).__name__}."[:_MOST_CHARACTERS])
        proven = isinstance(error, DamagedError) and error.proven
        do = error.do[:_MOST_CHARACTERS] if error.do else None
        return cls(error.kind, error.what[:_MOST_CHARACTERS], do, proven)

    def error(self, rank: int) -> HoldfastError:
        """The same error here, which says whose it is."""
        error = _CLASSES.get(self.kind, RankError)(f"Rank {rank}: {self.what}", do=self.do)
        if isinstance(error, DamagedError):
            error.proven = self.proven
        return error


_CLASSES = {
    cls.kind: cls
    for cls in vars(errors).values()
    if isinstance(cls, type) and issubclass(cls, HoldfastError) and cls is not MismatchError
}


class Agreed(msgspec.Struct, frozen=True):
    """What is done at a safe point: a save, and perhaps the end after it: by a signal, or of the loops."""

    reason: str
    leaving: signal.Signals | None = None
    stop: str | None = None


class Post(msgspec.Struct, frozen=True):
    """What rank 0 says to all.

    Attributes
    ----------
    turn : int
        The safe point that it is about, from 1; 0 before the first.
    name : str
        Of an attempt, a checkpoint or a part.
    """

    turn: int
    kind: Kind
    name: str = ""
    agreed: Agreed | None = None
    trouble: Trouble | None = None
    size_bytes: int = 0


class Answer(msgspec.Struct, frozen=True):
    """What a rank answers: yes, with the name of its part where one is asked for; not now; or why not."""

    name: str = ""
    is_ready: bool = True
    trouble: Trouble | None = None

    def checkpoint(self, rank: int) -> CheckpointId:
        """The part that it names."""
        parsed = CheckpointId.parse(self.name)
        if parsed is None:
            raise RankError(f"Rank {rank} handed over a part without a name.")
        return parsed


def pauses() -> Iterator[None]:
    """Wait a little longer each time round a loop; signal handlers run in between."""
    seconds = 0.0001
    while True:
        yield
        time.sleep(seconds)
        seconds = min(seconds * 2, _LONGEST_PAUSE_SECONDS)


def packed(wish: Agreed) -> int:
    """A wish in a word, which is 0 if there is none."""
    return int(wish.leaving or 0) << 2 | (wish.stop is not None) << 1 | 1


def unpacked(words: Sequence[int]) -> Agreed | None:
    """What other ranks want, as far as words tell."""
    if not any(words):
        return None
    number = next((word >> 2 for word in words if word >> 2), 0)
    leaving = signal.Signals(number) if number else None
    stop = "another rank ends the training" if any(word & 2 for word in words) else None
    return Agreed(leaving.name if leaving is not None else stop or "asked for by another rank", leaving, stop)
