"""How a draft becomes durable: the contract, and the way that holds up the training loop."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from typing import Protocol

import msgspec

from holdfast.domain.manifest import Details
from holdfast.domain.names import CheckpointId
from holdfast.errors import HoldfastError, UsageError
from holdfast.repository.commit import Draft
from holdfast.repository.persisting import Persister
from holdfast.training.staging import Versions


class Outcome(msgspec.Struct, frozen=True, kw_only=True):
    """What became of one draft.

    Attributes
    ----------
    sequence : int
        The draft's.
    checkpoint : CheckpointId or None
        Set if it is durable.
    error : HoldfastError or None
        Why it is not.
    replaced : bool
        A newer one took its place before it was begun.
    untagged : dict[str, HoldfastError]
        Tags that could not be set, each with the reason.
    size_bytes, new_bytes : int
        Of all its tensors; of those written to new packs.
    seconds : float
        From the draft to the commit.
    stall_seconds, share_seconds : float
        What training paid: the loop's wait, and its share of a core that worked beside it.
    """

    sequence: int
    checkpoint: CheckpointId | None = None
    error: HoldfastError | None = None
    replaced: bool = False
    untagged: dict[str, HoldfastError] = {}
    size_bytes: int = 0
    new_bytes: int = 0
    seconds: float = 0.0
    stall_seconds: float = 0.0
    share_seconds: float = 0.0

    @property
    def burden_seconds(self) -> float:
        """All that training paid."""
        return self.stall_seconds + self.share_seconds


class Way(Protocol):
    """Makes drafts durable, in the order in which they are submitted."""

    def has_room(self) -> bool:
        """Whether a draft that can be done without would be welcome now."""
        ...

    def submit(self, draft: Draft, tags: Sequence[str], *, urgent: bool, versions: Versions) -> None:
        """Take the draft; on return the live state may change again, but for what ``versions`` knows.

        Parameters
        ----------
        urgent : bool
            Somebody asked for it: it never makes room for a newer one.
        versions : mapping
            Memory that only an optimizer's step changes: it is left alone until `before_step`.

        Raises
        ------
        UnsupportedError
            Something in it cannot be kept exactly; nothing was taken.
        """
        ...

    def keep(self, draft: Draft, *, versions: Versions) -> None:
        """Hold the draft in memory in place of the one before, for a successor should this process die.

        It may be left out where there is no room. Parameters and errors are those of `submit`.
        """
        ...

    def prepare(self, size_bytes: Callable[[], int]) -> None:
        """Get ready for a draft of about the size that is told, while training goes on."""
        ...

    def before_step(self) -> None:
        """An optimizer is about to step: copy what is left of a draft."""
        ...

    def outcomes(self, wait_seconds: float = 0.0) -> list[Outcome]:
        """What has been decided since the last call; waits until something is, if anything is open."""
        ...

    def wait_uploaded(self, sequence: int, timeout_seconds: float | None) -> bool:
        """Wait until that draft's checkpoint, or a newer one, is at the mirror; False if that takes longer.

        Raises
        ------
        UsageError
            There is no mirror, or nothing is brought to it.
        """
        ...

    def close(self, *, done: bool) -> None:
        """Let go; what was submitted is still made durable.

        Parameters
        ----------
        done : bool
            Nobody is expected to go on from here soon: no memory is held for a successor.
        """
        ...


class Blocking:
    """Makes each draft durable while the loop waits.

    Parameters
    ----------
    persister : Persister
    """

    def __init__(self, persister: Persister) -> None:
        self._persister = persister
        self._outcomes: list[Outcome] = []

    def has_room(self) -> bool:
        return True

    def submit(
        self,
        draft: Draft,
        tags: Sequence[str],
        *,
        urgent: bool,
        versions: Versions | None = None,
        details: Details | None = None,
    ) -> None:
        started = time.monotonic()
        try:
            persisted = self._persister.persist(draft, tags, details=details)
        except HoldfastError as error:
            self._outcomes.append(Outcome(sequence=draft.sequence, error=error))
            return
        committed = persisted.committed
        self._outcomes.append(
            Outcome(
                sequence=draft.sequence,
                checkpoint=committed.id,
                untagged=persisted.untagged,
                size_bytes=committed.summary.size_bytes,
                new_bytes=committed.new_bytes,
                seconds=committed.seconds,
                stall_seconds=time.monotonic() - started,
            )
        )

    def keep(self, draft: Draft, *, versions: Versions) -> None:
        """Nobody would outlive this process."""

    def prepare(self, size_bytes: Callable[[], int]) -> None:
        """Nothing is to be made."""

    def before_step(self) -> None:
        """Nothing is left to copy."""

    def outcomes(self, wait_seconds: float = 0.0) -> list[Outcome]:
        decided, self._outcomes = self._outcomes, []
        return decided

    def wait_uploaded(self, sequence: int, timeout_seconds: float | None) -> bool:
        raise UsageError(
            "Nothing is brought to a mirror where saves hold up training.",
            do="Give mirror=, and leave background= out.",
        )

    def close(self, *, done: bool) -> None:
        """Nothing is held."""
