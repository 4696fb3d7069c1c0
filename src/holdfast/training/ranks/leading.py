"""Rank 0: it decides, asks the others, and publishes what all of them have made."""

from __future__ import annotations

import math
from collections.abc import Callable
from contextlib import suppress

from holdfast.domain.manifest import Manifest
from holdfast.domain.names import AttemptId, CheckpointId
from holdfast.errors import DamagedError, RankError
from holdfast.node.board import Board
from holdfast.repository.commit import Gather
from holdfast.repository.parts import join_parts, put_part, remove_parts
from holdfast.repository.repository import Repository
from holdfast.repository.run import Run
from holdfast.repository.writing import Written
from holdfast.training.ranks.talking import Asking, raise_trouble
from holdfast.training.ranks.words import LAST_TURN, Agreed, Kind, Post, Trouble, unpacked
from holdfast.training.restoring import Restored
from holdfast.training.ways import Outcome


class Leader:
    """Rank 0 of a launch.

    Parameters
    ----------
    board : Board
    warn : callable
        Takes what a person should know.
    """

    leads = True

    def __init__(self, board: Board, warn: Callable[[str], None]) -> None:
        self._board = board
        self._talk = Asking(board)
        self._warn = warn
        self._turn = self._save_at = 0
        self._pending: Agreed | None = None
        self._has_submitted = True
        self._parts: dict[int, CheckpointId] = {}

    # -- beginning ---------------------------------------------------------------------

    def opened(self, open_repository: Callable[[], Repository]) -> Repository:
        """Open the repository, which other ranks do after this one."""
        return open_repository()

    def attempt(self, claim: Callable[[], AttemptId]) -> AttemptId:
        """Claim the run for all, and let the others in."""
        attempt = claim()
        raise_trouble(self._talk.ask(Post(0, Kind.ATTEMPT, str(attempt))))
        return attempt

    def restore(
        self,
        newest: Callable[[], Restored | None],
        one: Callable[[CheckpointId], Restored],
        reject: Callable[[CheckpointId, DamagedError], None] | None,
    ) -> Restored | None:
        """Restore, and see that every other rank can restore the same; else all walk back together.

        Parameters
        ----------
        newest : callable
            Restores what the launch asks for.
        one : callable
            Restores a given checkpoint.
        reject : callable, optional
            Takes a checkpoint that another rank found damaged; None where no other one will do.
        """
        while True:
            restored = newest()
            name = str(restored.id) if restored is not None else ""
            answers = self._talk.ask(Post(0, Kind.RESTORE, name), math.inf)
            troubles = {r: a.trouble for r, a in answers.items() if a.trouble is not None}
            if not troubles:
                raise_trouble(self._talk.ask(Post(0, Kind.RESTORED, name)))
                return restored
            rank, trouble = min(troubles.items())
            error = trouble.error(rank)
            if restored is None or reject is None or not isinstance(error, DamagedError):
                raise error
            reject(restored.id, error)

    def begin(self, record: Callable[[], None]) -> None:
        """Record the base; then the first step may run."""
        record()
        self._board.decide(1, 0)
        raise_trouble(self._talk.ask(Post(0, Kind.BEGIN)))

    # -- safe points -------------------------------------------------------------------

    def arrive(
        self, wish: Callable[[], Agreed | None], ready: Callable[[], bool], *, at_once: bool
    ) -> Agreed | None:
        """Come to the next safe point; returns what is done there.

        Parameters
        ----------
        wish : callable
            What this rank wants there; asked only with ``at_once``.
        ready : callable
            Whether the state of this rank is settled; asked only if it matters.
        at_once : bool
            It is one at which all ranks wait for what rank 0 wants, such as the end of an epoch.
        """
        self._turn += 1
        return self._agree(wish, ready, at_once=at_once)

    def arrive_at_end(self, wish: Agreed | None) -> Agreed | None:
        """Come to the end of the training, which may be elsewhere for other ranks."""
        self._turn = LAST_TURN
        self._board.decide(LAST_TURN - 1, 0)
        return self._agree(lambda: wish or self._pending, lambda: True, at_once=True)

    def _agree(
        self, wish: Callable[[], Agreed | None], ready: Callable[[], bool], *, at_once: bool
    ) -> Agreed | None:
        if at_once:  # what was announced for the next step is not for this moment
            agreed = wish() or self._theirs()
        else:
            agreed = self._pending if self._save_at == self._turn else None
        if agreed is None:
            if at_once:
                self._talk.tell(Post(self._turn, Kind.QUIET))
            return None
        if not (ready() and self._all_ready(agreed)):
            self._talk.tell(Post(self._turn, Kind.LATER))
            return None
        self._talk.ask(Post(self._turn, Kind.GO, agreed=agreed))
        self._pending, self._has_submitted = None, False
        return agreed

    def _all_ready(self, agreed: Agreed) -> bool:
        """Whether all ranks are here, and their state settled."""
        patience_seconds = math.inf if self._turn == LAST_TURN else None  # the last save has no next one
        answers = self._talk.ask(Post(self._turn, Kind.READY, agreed=agreed), patience_seconds)
        for rank, answer in answers.items():
            if answer.trouble is not None:
                self._warn(f"nothing was saved at this safe point: {answer.trouble.error(rank).what}")
        return all(answer.is_ready and answer.trouble is None for answer in answers.values())

    def announce(self, wish: Agreed | None) -> None:
        """Decide what is done at the next safe point, by what this and other ranks want."""
        wish = wish or self._theirs() or (self._pending if self._save_at == self._turn else None)
        if wish is not None:
            self._pending, self._save_at = wish, self._turn + 1
        self._board.decide(self._turn + 1, self._save_at)

    def _theirs(self) -> Agreed | None:
        return unpacked(self._board.wishes())

    # -- a save ------------------------------------------------------------------------

    def join(
        self, run: Run, manifest: Manifest, written: Written, gather: Gather
    ) -> tuple[Manifest, Written, Gather]:
        """Get the parts of the others; of a run, a `commit.Join`."""
        first = put_part(run, 0, manifest, list(written.new_packs))
        self._parts = {0: first}
        answers = self._talk.ask(Post(self._turn, Kind.SAVE, str(first)), math.inf)  # as long as they write
        raise_trouble(answers)
        self._parts |= {rank: answer.checkpoint(rank) for rank, answer in answers.items()}
        others = {rank: name for rank, name in self._parts.items() if rank}
        return join_parts(run, manifest, written, gather, others)

    def tell_outcome(self, run: Run, outcome: Outcome) -> None:
        """Say what became of the save."""
        self._has_submitted = True
        remove_parts(run, self._parts)
        self._parts = {}
        if outcome.error is not None:
            self._talk.tell(Post(self._turn, Kind.FAILED, trouble=Trouble.of(outcome.error)))
        else:
            name, size_bytes = str(outcome.checkpoint), outcome.size_bytes
            with suppress(RankError):  # the save is done, whoever learns of it
                self._talk.ask(Post(self._turn, Kind.DONE, name, size_bytes=size_bytes))

    def abandon(self, error: BaseException | None) -> None:
        """Let the others go on if the save that was agreed on has not come about."""
        if not self._has_submitted:
            self._has_submitted = True
            trouble = Trouble.of(error or RankError("It has nothing to save: its loss is not finite."))
            self._talk.tell(Post(self._turn, Kind.FAILED, trouble=trouble))

    # -- ending ------------------------------------------------------------------------

    def close(self, error: BaseException | None) -> None:
        """Leave; the others learn why."""
        if error is not None:
            self._talk.tell(Post(self._turn, Kind.FAILED, trouble=Trouble.of(error)))
        self._board.leave()
        self._board.close()
