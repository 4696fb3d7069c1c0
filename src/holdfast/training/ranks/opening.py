"""The ranks of a launch find one another, and each gets its role."""

from __future__ import annotations

import os
import time
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, TypeVar

from holdfast.errors import RankError, StorageError
from holdfast.node.board import Board, find_board, make_board
from holdfast.training.ranks.following import Follower
from holdfast.training.ranks.launch import Place, launch_name
from holdfast.training.ranks.leading import Leader
from holdfast.training.ranks.session import RankSession
from holdfast.training.ranks.words import pauses

if TYPE_CHECKING:
    from holdfast.repository.repository import Repository

T = TypeVar("T")
JOIN_SECONDS = 300.0
"""How long ranks wait for one another to enter their Checkpointer."""


def open_ranks(
    place: Place,
    names: tuple[str, str],
    open_repository: Callable[[], Repository],
    warn: Callable[[str], None],
    arguments: tuple[Any, ...],
) -> RankSession:
    """The session of one rank, once all are there.

    Parameters
    ----------
    names : tuple[str, str]
        Location of the repository, and name of the run.
    open_repository : callable
        Called by rank 0 first: it may have to make it.
    arguments : tuple
        The further ones of `Session`.

    Raises
    ------
    RankError
        Not all ranks came.
    """
    board = _gathered(place, launch_name(os.environ, *names))
    role = Follower(board) if place.rank else Leader(board, warn)
    try:
        return RankSession(role, place, role.opened(open_repository), *arguments)
    except BaseException as error:
        role.close(error)
        raise


def _gathered(place: Place, name: str) -> Board:
    if place.rank:
        return _found(place, name)
    try:
        board = make_board(name, place.world_size)
    except OSError as error:
        raise StorageError(
            f"The ranks cannot share memory: {error.strerror}.",
            do="Make room in /dev/shm.",
            errno=error.errno,
        ) from error
    try:
        _wait(lambda: all(map(board.who, range(place.world_size))) or None, "Not all ranks have come")
    except BaseException:
        board.leave()
        board.close()
        raise
    board.unlink()
    return board


def _found(place: Place, name: str) -> Board:
    return _wait(lambda: find_board(name, place.rank, place.world_size), "Rank 0 has not come")


def _wait(look: Callable[[], T | None], what: str) -> T:
    until = time.monotonic() + JOIN_SECONDS
    for _ in pauses():
        if (found := look()) is not None:
            return found
        if time.monotonic() > until:
            break
    raise RankError(
        f"{what} to this Checkpointer within {JOIN_SECONDS:g} s.",
        do="Make one on every rank, with the same repository and run, by the same launcher on one machine.",
    )
