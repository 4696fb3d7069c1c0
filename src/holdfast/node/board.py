"""Memory that the ranks of one launch share on a machine: what rank 0 says, and what each rank answers.

A file that rank 0 makes, all ranks map, and rank 0 unlinks once everybody has it: nothing is left behind, and
a look at it is a load from memory. One writes to each part, so there are no locks; longer texts carry
a checksum, by which a reader tells one that is being written.
"""

from __future__ import annotations

import mmap
import os
import struct
import tempfile
import zlib
from contextlib import suppress
from pathlib import Path

import msgspec

from holdfast.node.process import ProcessIdentity

NAMES = "holdfast-ranks-"
"""How the names of all boards begin."""
TEXT_BYTES = 8 * 1024
_MAGIC = 0x31_4B_4E_41_52_46_48  # "HFRANK1"
_HEAD = struct.Struct("<QII")
_WHO_AT, _TEXT_AT = 64, 64 + 1024
_BLOCK_BYTES = _TEXT_AT + TEXT_BYTES
_IS, _WORLD, _DECIDED, _LEFT = range(4)
_WISH = 0


class Board:
    """The memory as one rank sees it.

    Parameters
    ----------
    descriptor : int
        Of the file; it is closed.
    rank, world_size : int
    """

    def __init__(self, descriptor: int, rank: int, world_size: int) -> None:
        self.rank = rank
        self.world_size = world_size
        self._map = mmap.mmap(descriptor, _size_bytes(world_size))
        os.close(descriptor)
        self._words = memoryview(self._map).cast("Q")
        self.path: Path | None = None
        self._dead: set[int] = set()

    # -- what rank 0 says --------------------------------------------------------------

    def decide(self, through: int, save_at: int) -> None:
        """Say up to which safe point it is known that nothing is saved, but at ``save_at``."""
        self._words[_DECIDED] = through << 32 | save_at

    def decided(self) -> tuple[int, int]:
        """What `decide` last said."""
        word = self._words[_DECIDED]
        return word >> 32, word & 0xFFFFFFFF

    def post(self, number: int, text: bytes) -> None:
        """Say something to all; what was said before is gone."""
        self._write(_TEXT_AT, number, text)

    def posted(self) -> tuple[int, bytes]:
        """The number and text of what was said last; 0 if nothing was, or it is just being said."""
        return self._read(_TEXT_AT, TEXT_BYTES)

    def leave(self) -> None:
        """Say that this rank says and answers nothing any more."""
        self._words[self._block(self.rank) // 8 + _LEFT] = 1

    # -- what ranks answer -------------------------------------------------------------

    def answer(self, number: int, text: bytes) -> None:
        """Answer what was said under this number."""
        self._write(self._block(self.rank) + _TEXT_AT, number, text)

    def answered(self, rank: int) -> tuple[int, bytes]:
        """The last answer of a rank, and to what."""
        return self._read(self._block(rank) + _TEXT_AT, TEXT_BYTES)

    def wish(self, word: int) -> None:
        """Leave a wish for rank 0 to see."""
        self._words[self._block(self.rank) // 8 + _WISH] = word

    def wishes(self) -> list[int]:
        """Those of all ranks."""
        return [self._words[self._block(rank) // 8 + _WISH] for rank in range(self.world_size)]

    # -- who is there ------------------------------------------------------------------

    def join(self) -> None:
        """Say who this rank is."""
        who = msgspec.json.encode(ProcessIdentity.of_this_process())
        self._write(self._block(self.rank) + _WHO_AT, 1, who)

    def who(self, rank: int) -> ProcessIdentity | None:
        """The process of a rank; None if it has not come."""
        number, text = self._read(self._block(rank) + _WHO_AT, _TEXT_AT - _WHO_AT)
        return msgspec.json.decode(text, type=ProcessIdentity) if number else None

    def has_left(self, rank: int) -> bool:
        """Whether a rank has said so."""
        return bool(self._words[self._block(rank) // 8 + _LEFT])

    def is_dead(self, rank: int) -> bool:
        """Whether the process of a rank, which has come, is known not to run any more."""
        who = self.who(rank)
        if who is not None and who.provably_dead():
            self._dead.add(rank)
        return rank in self._dead

    def is_of(self, world_size: int) -> bool:
        """Whether rank 0 has made it whole, for so many ranks."""
        return self._words[_IS] == _MAGIC and self._words[_WORLD] == world_size

    def close(self) -> None:
        """Let go; `leave` before if others may wait for this rank."""
        self.unlink()
        self._words.release()
        self._map.close()

    def unlink(self) -> None:
        """Nobody else needs to find it any more."""
        if self.path is not None:
            self.path.unlink(missing_ok=True)
        self.path = None

    # -- bytes -------------------------------------------------------------------------

    def _block(self, rank: int) -> int:
        return _BLOCK_BYTES * (1 + rank)

    def _write(self, at: int, number: int, text: bytes) -> None:
        if len(text) > TEXT_BYTES - _HEAD.size:
            raise ValueError(f"{len(text)} bytes are too long to be said at once")
        frame = _HEAD.pack(number, len(text), _check(number, text)) + text
        self._map[at : at + len(frame)] = frame

    def _read(self, at: int, most_bytes: int) -> tuple[int, bytes]:
        number, size, check = _HEAD.unpack_from(self._map, at)
        text = self._map[at + _HEAD.size : at + _HEAD.size + min(size, most_bytes - _HEAD.size)]
        return (number, text) if number and _check(number, text) == check else (0, b"")


def _check(number: int, text: bytes) -> int:
    return zlib.crc32(text, number & 0xFFFFFFFF)


def _size_bytes(world_size: int) -> int:
    return _BLOCK_BYTES * (1 + world_size)


def make_board(name: str, world_size: int) -> Board:
    """Rank 0's: put the memory where the others find it; what lies there of dead launches goes.

    Raises
    ------
    OSError
        It cannot be put there.
    """
    path = _folder() / name
    _remove_left(path.parent)
    descriptor, temporary = tempfile.mkstemp(prefix=f"{name}-", dir=path.parent)
    try:
        os.truncate(descriptor, _size_bytes(world_size))
        board = Board(descriptor, 0, world_size)
        board._words[_WORLD], board._words[_IS] = world_size, _MAGIC
        board.join()
        Path(temporary).rename(path)
    except BaseException:
        Path(temporary).unlink(missing_ok=True)
        raise
    board.path = path
    return board


def _remove_left(folder: Path) -> None:
    """Take away what launches left that were killed before all ranks had come."""
    for path in folder.glob(f"{NAMES}*"):
        with suppress(OSError, ValueError, msgspec.MsgspecError):
            if _is_left(path):
                path.unlink()


def _is_left(path: Path) -> bool:
    descriptor = os.open(path, os.O_RDWR | os.O_NOFOLLOW | os.O_CLOEXEC | os.O_NONBLOCK)
    status = os.fstat(descriptor)
    world_size = status.st_size // _BLOCK_BYTES - 1
    if status.st_uid != os.geteuid() or world_size < 1 or status.st_size != _size_bytes(world_size):
        os.close(descriptor)
        return False
    board = Board(descriptor, 0, world_size)
    try:
        return board.is_of(world_size) and board.is_dead(0)
    finally:
        board.close()


def find_board(name: str, rank: int, world_size: int) -> Board | None:
    """Another rank's: that of a living rank 0 of the same user; None if there is none yet."""
    try:
        descriptor = os.open(_folder() / name, os.O_RDWR | os.O_NOFOLLOW | os.O_CLOEXEC)
    except OSError:
        return None
    status = os.fstat(descriptor)
    if status.st_uid != os.geteuid() or status.st_size != _size_bytes(world_size):
        os.close(descriptor)
        return None
    board = Board(descriptor, rank, world_size)
    if not board.is_of(world_size) or board.is_dead(0) or board.has_left(0):
        board.close()
        return None
    board.join()
    return board


def _folder() -> Path:
    """A folder in memory where there is one: a page on a disk is written back again and again."""
    shared = Path("/dev/shm")
    with suppress(OSError):
        if os.access(shared, os.W_OK | os.X_OK):
            return shared
    return Path(tempfile.gettempdir())
