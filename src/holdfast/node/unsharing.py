"""Shared memory that has become a process's own: who is forked from it must not see it change.

Memory of one's own is copied on write between a process and those forked from it; a mapping of an anonymous
file is not. So before a fork what was taken from such a file is made private, where it lies.
"""

from __future__ import annotations

import os
import threading
import weakref
from collections.abc import Iterable, Iterator
from functools import cache
from mmap import PAGESIZE
from typing import TYPE_CHECKING, NamedTuple

from holdfast.storage import linux

if TYPE_CHECKING:
    from mmap import mmap


class Stretch(NamedTuple):
    """Bytes of a file, from ``start`` to before ``stop``."""

    start: int
    stop: int


class Taken:
    """What was taken for good from the mapping of an anonymous file that others may have mapped, too.

    Parameters
    ----------
    mapped : mmap
        All of the file; kept alive by who uses what was taken.
    descriptor : int
        Of the file; stays the caller's.
    """

    def __init__(self, mapped: mmap, descriptor: int) -> None:
        import numpy as np

        self._size_bytes = len(mapped)
        self._address = np.frombuffer(mapped, np.uint8).ctypes.data
        self._stretches: list[Stretch] = []
        self._lock = threading.Lock()
        self._mapped = weakref.ref(mapped)
        self._descriptor = os.dup(descriptor)
        self._end = weakref.finalize(mapped, self._ended)
        _unshare_before_forks()
        _all_taken.add(self)

    def _ended(self) -> None:
        _all_taken.discard(self)
        os.close(self._descriptor)

    def take(self, start: int, size_bytes: int) -> None:
        """Note that this stretch is the taker's from now on."""
        with self._lock:
            self._stretches.append(Stretch(start, start + size_bytes))

    def give_back_the_rest(self) -> None:
        """Let the system have all pages that nothing was taken from."""
        mapped = self._mapped()  # held here, its descriptor stays open
        with self._lock:
            if mapped is None or not self._end.alive:
                return
            for start, stop in between(in_pages(self._stretches), self._size_bytes):
                linux.punch(self._descriptor, start, stop - start)

    def unshare(self) -> None:
        """Make it private: others' view of the file and this process's memory are two things from now on.

        What another thread writes meanwhile is not lost: it comes into the file before the mapping is
        replaced, which then shows it, or later into a page of this process's own.

        Raises
        ------
        OSError
            The system allows no such mapping.
        """
        mapped = self._mapped()  # held here, it stays where it is, and its descriptor open
        with self._lock:
            if mapped is None or not self._end.alive:
                return
            for start, stop in in_pages(self._stretches):
                if linux.map_privately(self._address + start, stop - start, self._descriptor, start):
                    linux.punch(self._descriptor, start, stop - start)
            self._end()


_all_taken: set[Taken] = set()


@cache
def _unshare_before_forks() -> None:
    os.register_at_fork(before=_unshare_all)


def _unshare_all() -> None:
    for taken in list(_all_taken):
        taken.unshare()


def in_pages(stretches: Iterable[Stretch]) -> list[Stretch]:
    """Stretches of whole pages that hold these, in order, none next to another."""
    found: list[Stretch] = []
    for start, stop in sorted(stretches):
        first, end = start // PAGESIZE * PAGESIZE, -(-stop // PAGESIZE) * PAGESIZE
        if found and first <= found[-1].stop:
            found[-1] = Stretch(found[-1].start, max(end, found[-1].stop))
        else:
            found.append(Stretch(first, end))
    return found


def between(stretches: Iterable[Stretch], size_bytes: int) -> Iterator[Stretch]:
    """What lies before, between and behind these, up to the whole pages of a size."""
    last = 0
    for start, stop in stretches:
        if start > last:
            yield Stretch(last, start)
        last = stop
    end = -(-size_bytes // PAGESIZE) * PAGESIZE
    if end > last:
        yield Stretch(last, end)
