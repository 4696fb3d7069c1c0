"""What ranks share in memory: found by those of one launch, read whole or not at all, left nowhere."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from holdfast.node import board as boards
from holdfast.node.board import TEXT_BYTES, Board, find_board, make_board

NAME = "holdfast-ranks-test"


@pytest.fixture(autouse=True)
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setattr(boards, "_folder", lambda: tmp_path)
    return tmp_path


@pytest.fixture
def board(folder: Path) -> Iterator[Board]:
    made = make_board(NAME, 3)
    yield made
    made.close()


def found(rank: int = 1, world_size: int = 3) -> Board:
    there = find_board(NAME, rank, world_size)
    assert there is not None
    return there


def test_what_one_says_the_others_hear(board: Board) -> None:
    one, two = found(1), found(2)
    board.decide(7, 5)
    board.post(3, b"said")
    one.answer(3, b"yes")
    two.wish(31)
    two.leave()
    assert (one.decided(), two.posted()) == ((7, 5), (3, b"said"))
    assert (board.answered(1), board.answered(2)) == ((3, b"yes"), (0, b""))
    assert board.wishes() == [0, 0, 31]
    assert [board.has_left(rank) for rank in range(3)] == [False, False, True]
    assert [board.is_dead(rank) for rank in range(3)] == [False] * 3
    for other in (one, two):
        other.close()


def test_nothing_is_left_behind_and_nobody_finds_it_then(board: Board, folder: Path) -> None:
    assert [path.name for path in folder.iterdir()] == [NAME]
    board.unlink()
    assert not list(folder.iterdir())
    assert find_board(NAME, 1, 3) is None


def test_half_of_a_text_is_none(board: Board) -> None:
    one = found()
    board.post(1, b"first")
    board._map[boards._TEXT_AT + boards._HEAD.size] ^= 1
    assert one.posted() == (0, b"")
    board.post(2, b"x" * (TEXT_BYTES - boards._HEAD.size))
    assert one.posted()[0] == 2
    with pytest.raises(ValueError, match="too long"):
        board.post(3, b"x" * TEXT_BYTES)
    one.close()


def test_a_board_of_a_dead_launch_is_not_taken_and_is_replaced(folder: Path) -> None:
    code = (
        "import sys; from pathlib import Path; from holdfast.node import board\n"
        "board._folder = lambda: Path(sys.argv[1])\n"
        f"board.make_board({NAME!r}, 2).path = None\n"
    )
    subprocess.run([sys.executable, "-c", code, str(folder)], check=True)
    assert [path.name for path in folder.iterdir()] == [NAME]
    assert find_board(NAME, 1, 2) is None
    made = make_board(NAME, 2)
    again = found(1, 2)
    assert made.who(1) is not None
    again.close()
    made.close()
    assert not list(folder.iterdir())


def test_what_a_killed_launch_left_goes_with_the_next_one_and_nothing_else(
    board: Board, folder: Path
) -> None:
    code = (
        "import sys; from pathlib import Path; from holdfast.node import board\n"
        "board._folder = lambda: Path(sys.argv[1])\n"
        f"board.make_board({f'{NAME}-killed'!r}, 64).path = None\n"
    )
    subprocess.run([sys.executable, "-c", code, str(folder)], check=True)
    (folder / f"{NAME}-short").write_bytes(b"short")
    (folder / f"{NAME}-zeros").write_bytes(bytes((folder / NAME).stat().st_size))
    (folder / f"{NAME}-link").symlink_to(folder / f"{NAME}-killed")
    make_board(f"{NAME}-next", 2).close()
    left = {path.name.removeprefix(NAME) for path in folder.iterdir()}
    assert left == {"", "-short", "-zeros", "-link"}


def test_what_is_no_board_of_ours_is_not_taken(board: Board, folder: Path) -> None:
    assert find_board(NAME, 1, 2) is None  # of another number of ranks
    (folder / "link").symlink_to(folder / NAME)
    assert find_board("link", 1, 3) is None
    (folder / "short").write_bytes(b"short")
    assert find_board("short", 1, 3) is None
    (folder / "zeros").write_bytes(bytes((folder / NAME).stat().st_size))
    assert find_board("zeros", 1, 3) is None
    assert (folder / NAME).stat().st_mode & 0o777 == 0o600


def test_a_rank_that_died_is_known_to_be_dead(board: Board) -> None:
    pid = os.fork()
    if pid == 0:
        found()
        os._exit(0)
    os.waitpid(pid, 0)
    assert board.is_dead(1)
    assert not board.is_dead(2)  # it has not come yet
