"""Asking and answering over the board: rank 0 asks, the others answer, and nobody waits for the dead."""

from __future__ import annotations

import time
from collections.abc import Callable, Collection, Iterable, Mapping
from typing import TypeVar

import msgspec

from holdfast.errors import RankError
from holdfast.node.board import Board
from holdfast.training.ranks.words import Answer, Kind, Post, Trouble, pauses

T = TypeVar("T")
LATE_SECONDS = 300.0
"""How long rank 0 waits for another rank that lives to come or answer; not for what it reads or writes."""
_LOOK_SECONDS = 0.05
"""Between two looks whether ranks that are waited for still live."""


class Asking:
    """Rank 0's side."""

    def __init__(self, board: Board) -> None:
        self._board = board
        self._number = 0

    def tell(self, post: Post) -> None:
        """Say something that needs no answer."""
        self._number += 1
        self._board.post(self._number, msgspec.json.encode(post))

    def ask(self, post: Post, patience_seconds: float | None = None) -> dict[int, Answer]:
        """Say something; returns all answers, or those so far and the first trouble.

        Parameters
        ----------
        patience_seconds : float, optional
            How long to wait for ranks that live; by default `LATE_SECONDS`.

        Raises
        ------
        RankError
            Another rank is gone: this training cannot go on.
        """
        self.tell(post)
        answers: dict[int, Answer] = {}
        others = range(1, self._board.world_size)
        patience_seconds = LATE_SECONDS if patience_seconds is None else patience_seconds
        late, look = time.monotonic() + patience_seconds, 0.0
        for _ in pauses():
            answers |= {rank: answer for rank in others if (answer := self._answer(rank)) is not None}
            if len(answers) == len(others) or any(answer.trouble for answer in answers.values()):
                break
            if (now := time.monotonic()) > look:
                look = now + _LOOK_SECONDS
                missing = [rank for rank in others if rank not in answers]
                self._refuse_gone(missing)
                answers |= {rank: _late() for rank in missing if now > late}
        return answers

    def _answer(self, rank: int) -> Answer | None:
        number, text = self._board.answered(rank)
        return msgspec.json.decode(text, type=Answer) if number == self._number else None

    def _refuse_gone(self, ranks: Iterable[int]) -> None:
        for rank in ranks:
            gone = whereabouts(self._board, rank)
            if gone and self._answer(rank) is None:  # else it answered just before
                raise RankError(f"Rank {rank} {gone}, so the training cannot go on.")


def _late() -> Answer:
    return Answer(trouble=Trouble(RankError.kind, f"It gave no answer for {LATE_SECONDS:g} s."))


def whereabouts(board: Board, rank: int) -> str:
    """What has become of a rank that says nothing any more; empty if it is there."""
    if board.is_dead(rank):
        return "has died"
    return "has left the training" if board.has_left(rank) else ""


class Answering:
    """The side of any other rank."""

    def __init__(self, board: Board) -> None:
        self._board = board
        self._number = 0

    def wait(self, turn: int, kinds: Collection[Kind]) -> Post:
        """Wait until rank 0 says one of these about a safe point; it may have been said already.

        If rank 0 is past that safe point, nothing came of it: that is told as `Kind.FAILED`.

        Raises
        ------
        RankError
            Rank 0 is gone.
        """
        return self.until(lambda: self._fitting(turn, kinds))

    def next(self, turn: int, kinds: Collection[Kind]) -> Post:
        """As `wait`, but what was answered does not count."""
        answered = self._number
        return self.until(lambda: self._fitting(turn, kinds, after=answered))

    def until(self, look: Callable[[], T | None]) -> T:
        """Wait until ``look`` finds something, as long as rank 0 is there."""
        next_look = 0.0
        for _ in pauses():
            if (found := look()) is not None:
                return found
            if (now := time.monotonic()) > next_look:
                next_look = now + _LOOK_SECONDS
                gone = whereabouts(self._board, 0)
                if gone and (found := look()) is not None:  # it was said just before
                    return found
                if gone:
                    raise RankError(f"Rank 0 {gone}, so the training cannot go on.")
        raise AssertionError  # unreachable: the pauses never end

    def _fitting(self, turn: int, kinds: Collection[Kind], after: int = 0) -> Post | None:
        number, text = self._board.posted()
        post = msgspec.json.decode(text, type=Post) if number > after else None
        if post is None or post.turn < turn:
            return None
        if post.turn > turn:
            return Post(turn, Kind.FAILED, trouble=Trouble(RankError.kind, "It went on without this rank."))
        self._number = number
        return post if post.kind in kinds else None

    def answer(self, answer: Answer) -> None:
        """Answer what was waited for last."""
        self._board.answer(self._number, msgspec.json.encode(answer))


def raise_trouble(answers: Mapping[int, Answer]) -> None:
    """Raise what is the trouble of any rank."""
    for rank, answer in sorted(answers.items()):
        if answer.trouble is not None:
            raise answer.trouble.error(rank)
