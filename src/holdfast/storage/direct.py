"""Moving large byte streams between memory and a file at the disk's own speed.

Direct I/O wants aligned memory, which tensors rarely are, and memory whose pages lie together:
requests are cut where physical pages are scattered, which measured up to twice as slow. So writes
gather in a small transfer buffer of huge pages, also where the source is aligned. Reads land at
the next aligned address of the destination and are shifted down; who reads aligned bytes into a
transfer buffer moves nothing (docs/design/006-speed-of-save-and-load.md).
"""

from __future__ import annotations

import errno
import fcntl
import mmap
import os
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import suppress
from typing import TYPE_CHECKING

import msgspec
import numpy as np

if TYPE_CHECKING:
    from types import TracebackType

    import numpy.typing as npt

    from holdfast.storage.base import Buffer

    Bytes = npt.NDArray[np.uint8]

BOUNCE_BYTES = 4 << 20
O_DIRECT: int = getattr(os, "O_DIRECT", 0)

_WORTH_IT_BYTES = 1 << 20
_PIECE_BYTES = 16 << 20
_TAIL_BYTES = 64 << 10
_HUGE_BYTES = 2 << 20


class Alignment(msgspec.Struct, frozen=True):
    """What direct I/O asks of addresses in memory and of offsets and sizes in the file."""

    memory_bytes: int = 4096
    offset_bytes: int = 4096


def transfer_buffer(size_bytes: int) -> Bytes:
    """Page-aligned memory, in huge pages where the system has them; not shared with forked children."""
    memory = mmap.mmap(-1, size_bytes + _HUGE_BYTES, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
    with suppress(AttributeError, OSError):  # not on this system, not in this kernel
        memory.madvise(mmap.MADV_HUGEPAGE)
    whole = np.frombuffer(memory, np.uint8)
    skip = -whole.ctypes.data % _HUGE_BYTES
    return whole[skip : skip + size_bytes]


class Bounces:
    """Transfer buffers, reused: as many as there were ever transfers at once."""

    def __init__(self) -> None:
        self._free: list[Bytes] = []

    def take(self) -> Bytes:
        try:
            return self._free.pop()
        except IndexError:
            return transfer_buffer(BOUNCE_BYTES)

    def give_back(self, bounce: Bytes) -> None:
        self._free.append(bounce)


class DirectWriter:
    """Writes a stream to a new file opened with O_DIRECT; less than one bounce goes buffered.

    What fills a bounce is written by a thread while the next one is being filled.
    """

    def __init__(self, descriptor: int, alignment: Alignment, bounces: Bounces) -> None:
        self._descriptor = descriptor
        self._alignment = alignment
        self._bounces = bounces
        self._bounce = bounces.take()
        self._filled = 0
        self._offset = 0
        self._pool = ThreadPoolExecutor(1)
        self._writing: tuple[Future[int], Bytes] | None = None

    def __enter__(self) -> DirectWriter:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self._pool.shutdown()  # nothing is written any more: the file may be closed, the memory reused
        if self._writing is not None:
            self._bounces.give_back(self._writing[1])
        self._bounces.give_back(self._bounce)

    def write(self, part: Buffer) -> None:
        """Append a part; it may be reused on return."""
        view = byte_view(part)
        if len(view) == 0:
            return
        source = np.frombuffer(view, np.uint8)
        while len(source):
            taken = min(len(source), len(self._bounce) - self._filled)
            # copyto releases the GIL: another writer digests or copies meanwhile.
            np.copyto(self._bounce[self._filled : self._filled + taken], source[:taken])
            self._filled += taken
            source = source[taken:]
            if self._filled == len(self._bounce):
                self._pass_on()

    def finish(self) -> None:
        """Write what is left: whole blocks directly, a file's ragged end through the page cache."""
        self._wait()
        step = self._alignment.offset_bytes
        whole = self._filled // step * step if self._offset else 0
        if whole:
            write_all(self._descriptor, self._bounce[:whole], self._offset)
        if whole < self._filled:
            leave_direct(self._descriptor)
            write_all(self._descriptor, self._bounce[whole : self._filled], self._offset + whole)
        self._filled = 0

    def _pass_on(self) -> None:
        """Have the full bounce written; go on with another."""
        self._wait()
        self._writing = (
            self._pool.submit(write_all, self._descriptor, self._bounce, self._offset),
            self._bounce,
        )
        self._offset += self._filled
        self._bounce, self._filled = self._bounces.take(), 0

    def _wait(self) -> None:
        if self._writing is not None:
            self._writing[0].result()
            self._bounces.give_back(self._writing[1])
            self._writing = None


def write_all(descriptor: int, data: Buffer, offset: int) -> int:
    """Write all of ``data`` at ``offset``; where direct I/O is refused, through the page cache."""
    view = byte_view(data)
    done = 0
    while done < len(view):
        try:
            done += os.pwrite(descriptor, view[done:], offset + done)
        except OSError as error:
            if error.errno != errno.EINVAL or not leave_direct(descriptor):
                raise
    return done


def leave_direct(descriptor: int) -> bool:
    """Let further writes go through the page cache; False if they did already."""
    flags = fcntl.fcntl(descriptor, fcntl.F_GETFL)
    if not flags & O_DIRECT:
        return False
    fcntl.fcntl(descriptor, fcntl.F_SETFL, flags & ~O_DIRECT)
    return True


def worth_direct(size_bytes: int) -> bool:
    """Whether a read of this size gains from going past the page cache."""
    return size_bytes >= _WORTH_IT_BYTES


def expect_no_more(descriptor: int) -> None:
    """Keep the kernel from reading ahead: a listing wants the front of thousands of files."""
    if hasattr(os, "posix_fadvise"):
        with suppress(OSError):  # it is advice
            os.posix_fadvise(descriptor, 0, 0, os.POSIX_FADV_RANDOM)


def read_buffered(descriptor: int, start: int, buffer: Bytes) -> int:
    """Fill ``buffer`` from ``start`` through the page cache; return the bytes read."""
    done = 0
    while done < len(buffer):
        got = os.preadv(descriptor, [buffer[done : done + _PIECE_BYTES].data], start + done)
        if got == 0:
            break
        done += got
    return done


def read_direct(descriptor: int, start: int, buffer: Bytes, alignment: Alignment, bounces: Bounces) -> int:
    """Fill ``buffer`` from ``start`` of a file opened with O_DIRECT; return the bytes read."""
    done = 0
    while len(buffer) - done > _TAIL_BYTES:
        got = _read_shifted(descriptor, start + done, buffer[done:], alignment)
        if got == 0:
            return done
        done += got
    return done + _read_tail(descriptor, start + done, buffer[done:], alignment, bounces)


def _read_shifted(descriptor: int, start: int, buffer: Bytes, alignment: Alignment) -> int:
    """Read one piece to the next aligned address of ``buffer``, then move it to its place."""
    skew = start % alignment.offset_bytes
    shift = -buffer.ctypes.data % alignment.memory_bytes
    room = min(len(buffer), _PIECE_BYTES) - shift
    whole = room // alignment.offset_bytes * alignment.offset_bytes
    got = os.preadv(descriptor, [buffer[shift : shift + whole].data], start - skew)
    useful = max(got - skew, 0)
    if useful and shift + skew:
        # One-dimensional and downwards: numpy moves overlapping bytes correctly, in place.
        np.copyto(buffer[:useful], buffer[shift + skew : shift + got])
    return useful


def _read_tail(descriptor: int, start: int, buffer: Bytes, alignment: Alignment, bounces: Bounces) -> int:
    if len(buffer) == 0:
        return 0
    skew = start % alignment.offset_bytes
    blocks = -(-(skew + len(buffer)) // alignment.offset_bytes)
    bounce = bounces.take()
    try:
        got = os.preadv(descriptor, [bounce[: blocks * alignment.offset_bytes].data], start - skew)
        useful = min(max(got - skew, 0), len(buffer))
        np.copyto(buffer[:useful], bounce[skew : skew + useful])
    finally:
        bounces.give_back(bounce)
    return useful


def byte_view(data: Buffer) -> memoryview:
    """The same memory as plain bytes."""
    view = data.data if isinstance(data, np.ndarray) else memoryview(data)
    return view if view.format == "B" else view.cast("B")
