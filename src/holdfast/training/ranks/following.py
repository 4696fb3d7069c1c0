"""Every rank but 0: it does what rank 0 says, and tells what it wants."""

from __future__ import annotations

import time
from collections.abc import Callable

from holdfast.domain.manifest import Details
from holdfast.domain.names import AttemptId, CheckpointId
from holdfast.errors import DamagedError, HoldfastError, RankError
from holdfast.node.board import Board
from holdfast.repository.commit import Draft
from holdfast.repository.parts import write_part
from holdfast.repository.repository import Repository
from holdfast.repository.run import Run
from holdfast.training.ranks.talking import Answering
from holdfast.training.ranks.words import LAST_TURN, Agreed, Answer, Kind, Post, Trouble, packed
from holdfast.training.restoring import Restored
from holdfast.training.ways import Outcome

_VERDICTS = (Kind.GO, Kind.LATER, Kind.FAILED)
_OUTCOMES = (Kind.DONE, Kind.FAILED)


class Follower:
    """A rank of a launch that is not 0.

    Parameters
    ----------
    board : Board
    """

    leads = False

    def __init__(self, board: Board) -> None:
        self._board = board
        self._talk = Answering(board)
        self._turn = 0
        self._has_submitted = True

    # -- beginning ---------------------------------------------------------------------

    def opened(self, open_repository: Callable[[], Repository]) -> Repository:
        """Open the repository once rank 0 has: that may have to make it first."""
        self._told(Kind.ATTEMPT)
        return open_repository()

    def attempt(self, claim: Callable[[], AttemptId]) -> AttemptId:
        """The attempt that rank 0 has opened for all."""
        name = self._talk.wait(0, (Kind.ATTEMPT,)).name
        self._talk.answer(Answer())
        attempt = AttemptId.parse(name)
        if attempt is None:
            raise RankError(f"Rank 0 names no attempt: {name!r}.")
        return attempt

    def _told(self, *kinds: Kind) -> Post:
        """The next thing that rank 0 says before the first safe point."""
        post = self._talk.next(0, (*kinds, Kind.FAILED))
        if post.trouble is not None:
            raise post.trouble.error(0)
        return post

    def restore(
        self,
        newest: Callable[[], Restored | None],
        one: Callable[[CheckpointId], Restored],
        reject: Callable[[CheckpointId, DamagedError], None] | None,
    ) -> Restored | None:
        """Restore what rank 0 says, until every rank could."""
        restored: Restored | None = None
        while (post := self._told(Kind.RESTORE, Kind.RESTORED)).kind is Kind.RESTORE:
            checkpoint = CheckpointId.parse(post.name)
            try:
                restored = one(checkpoint) if checkpoint is not None else None
            except HoldfastError as error:
                self._talk.answer(Answer(trouble=Trouble.of(error)))
                if not isinstance(error, DamagedError):
                    raise
            else:
                self._talk.answer(Answer())
        self._talk.answer(Answer())
        return restored

    def begin(self, record: Callable[[], None]) -> None:
        """Wait until the base is recorded."""
        self._told(Kind.BEGIN)
        self._talk.answer(Answer())

    # -- safe points -------------------------------------------------------------------

    def arrive(
        self, wish: Callable[[], Agreed | None], ready: Callable[[], bool], *, at_once: bool
    ) -> Agreed | None:
        """Come to the next safe point; returns what is done there. Parameters are those of `Leader`."""
        self._turn += 1
        if not at_once and not self._is_saved_now():
            return None
        return self._agree(ready)

    def arrive_at_end(self, wish: Agreed | None) -> Agreed | None:
        """Come to the end of the training."""
        self._turn = LAST_TURN
        return self._agree(lambda: True)

    def _is_saved_now(self) -> bool:
        """What rank 0 has decided about this safe point: it is known, unless this rank is ahead of it."""
        through, save_at = self._board.decided()
        if through < self._turn:
            through, save_at = self._talk.until(self._decided)
        return save_at == self._turn

    def _decided(self) -> tuple[int, int] | None:
        through, save_at = self._board.decided()
        return (through, save_at) if through >= self._turn else None

    def _agree(self, ready: Callable[[], bool]) -> Agreed | None:
        post = self._talk.wait(self._turn, (Kind.QUIET, Kind.READY, *_VERDICTS))
        if post.kind is Kind.READY:
            self._talk.answer(Answer(is_ready=ready()))
            post = self._talk.next(self._turn, _VERDICTS)
        if post.kind is not Kind.GO:
            return None
        self._board.wish(0)  # before rank 0 looks again: what was wanted comes now
        self._talk.answer(Answer())
        self._has_submitted = False
        return post.agreed

    def announce(self, wish: Agreed | None) -> None:
        """Let rank 0 know what this rank wants."""
        self._board.wish(packed(wish) if wish is not None else 0)

    # -- a save ------------------------------------------------------------------------

    def save(self, run: Run, draft: Draft, details: Details) -> Outcome:
        """Hand over this rank's part, and learn what became of the whole."""
        self._has_submitted = True
        started = time.monotonic()
        post = self._talk.wait(self._turn, (Kind.SAVE, *_OUTCOMES))
        if post.kind is Kind.SAVE:
            self._talk.answer(self._part(run, draft, details, post.name))
            post = self._talk.next(self._turn, _OUTCOMES)
        if post.trouble is not None:
            return Outcome(sequence=draft.sequence, error=post.trouble.error(0))
        self._talk.answer(Answer())
        seconds = time.monotonic() - started
        return Outcome(
            sequence=draft.sequence,
            checkpoint=CheckpointId.parse(post.name),
            size_bytes=post.size_bytes,
            seconds=seconds,
            stall_seconds=seconds,
        )

    def _part(self, run: Run, draft: Draft, details: Details, first: str) -> Answer:
        name = CheckpointId.parse(first)
        try:
            if name is None:
                raise RankError(f"Rank 0 names no part: {first!r}.")
            return Answer(str(write_part(run, draft, details, self._board.rank, name)))
        except HoldfastError as error:
            return Answer(trouble=Trouble.of(error))

    def abandon(self, error: BaseException | None) -> None:
        """Tell rank 0 if the save that was agreed on has not come about here."""
        if self._has_submitted:
            return
        self._has_submitted = True
        if self._talk.wait(self._turn, (Kind.SAVE, *_OUTCOMES)).kind is Kind.SAVE:
            trouble = Trouble.of(error or RankError("It has nothing to save: its loss is not finite."))
            self._talk.answer(Answer(trouble=trouble))

    # -- ending ------------------------------------------------------------------------

    def close(self, error: BaseException | None) -> None:
        """Leave."""
        self._board.leave()
        self._board.close()
