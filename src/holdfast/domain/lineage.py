"""Which checkpoint a run may resume from: computed from what is present, never from a pointer."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Sequence

import msgspec

from holdfast.domain.names import AttemptId, CheckpointId


class Attempt(msgspec.Struct, frozen=True):
    """What is recorded of an attempt.

    Attributes
    ----------
    id : AttemptId
        Number and nonce.
    based : bool
        Whether it has recorded what it starts from; before that it counts for nothing.
    base : CheckpointId or None
        The recovery point it started from; None for a fresh start.
    trusted : bool
        Whether that is signed by who has to have signed it, if anybody has to.
    """

    id: AttemptId
    based: bool = False
    base: CheckpointId | None = None
    trusted: bool = True


def head_attempt(attempts: Sequence[Attempt]) -> Attempt | None:
    """The highest attempt that has recorded its base."""
    return max((a for a in attempts if a.based), key=lambda a: a.id, default=None)


def trusted_part(attempts: Sequence[Attempt]) -> list[Attempt]:
    """Attempts up to the highest one whose base is trusted: it decides where the run goes on from."""
    head = head_attempt([a for a in attempts if a.trusted])
    return [a for a in attempts if head is not None and a.id <= head.id]


def first_attempt(attempts: Sequence[Attempt], attempt: AttemptId) -> AttemptId:
    """The attempt that began what this one goes on with: the same over all restarts."""
    bases = {a.id: a.base.attempt for a in attempts if a.based and a.base is not None}
    known = {a.id for a in attempts}
    while (older := bases.get(attempt)) in known and older is not None and older < attempt:
        attempt = older
    return attempt


def chain(
    attempts: Sequence[Attempt], checkpoints: Collection[CheckpointId], head: Attempt | None = None
) -> Iterator[CheckpointId]:
    """Checkpoints on the line that leads to the head, newest first.

    A late commit of an older attempt (a zombie's) lies past the base that its successor
    chose, so it is a dead branch and does not appear.

    Parameters
    ----------
    attempts : sequence of Attempt
        All attempts of the run.
    checkpoints : collection of CheckpointId
        All that are present, full and thin.
    head : Attempt, optional
        Where to start; by default the highest based attempt.
    """
    by_id = {a.id: a for a in attempts if a.based}
    attempt = head if head is not None else head_attempt(attempts)
    newest: int | None = None
    while attempt is not None:
        own = [c for c in checkpoints if c.attempt == attempt.id and (newest is None or c.sequence <= newest)]
        yield from sorted(own, key=lambda c: (c.sequence, c.kind == "full"), reverse=True)
        base = attempt.base
        older = by_id.get(base.attempt) if base is not None else None
        newest = base.sequence if base is not None else None
        attempt = older if older is not None and older.id.number < attempt.id.number else None


def recovery_points(
    attempts: Sequence[Attempt], checkpoints: Collection[CheckpointId], excluded: Collection[str]
) -> Iterator[CheckpointId]:
    """What a run may resume from, best first: full, on the line, not rejected or condemned."""
    return (c for c in chain(attempts, checkpoints) if c.kind == "full" and str(c) not in excluded)
