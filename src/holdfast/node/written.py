"""Whether memory has been written to since a moment, as the kernel knows it.

Linux (6.7 and newer) write-protects pages so that the first write to each lifts the protection and goes
on: userfaultfd with ``UFFD_FEATURE_WP_ASYNC``, asked by the ioctl ``PAGEMAP_SCAN``
(Documentation/admin-guide/mm/pagemap.rst). Writes of the kernel on behalf of the process are seen too;
a device that writes to memory which was pinned before is not.
"""

from __future__ import annotations

import bisect
import ctypes
import os
import struct
import weakref
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    import numpy as np
    import numpy.typing as npt

    Bytes = npt.NDArray[np.uint8]

MOST_RANGES = 1024
"""Each may split a mapping, of which a process has 65,530."""
_SYSCALL = {"x86_64": 323, "aarch64": 282}
_USER_MODE_ONLY = 1
_API, _WP_UNPOPULATED, _WP_ASYNC = 0xAA, 1 << 13, 1 << 15
_API_FIELDS, _REGISTER_FIELDS, _RANGE_FIELDS, _SCAN_FIELDS = "3Q", "4Q", "2Q", "12Q"
_MODE_WP = 1 << 1
_WRITTEN, _PRESENT, _SWAPPED = 1 << 1, 1 << 3, 1 << 4
_SCAN_PROTECT, _SCAN_CHECK = 1, 2
_open: weakref.WeakSet[Watch] = weakref.WeakSet()


def _request(letter: int, number: int, fields: str, *, direction: int = 3) -> int:
    """An ioctl's number, as ``asm-generic/ioctl.h`` makes it."""
    return direction << 30 | struct.calcsize(fields) << 16 | letter << 8 | number


_REQUEST_API = _request(0xAA, 0x3F, _API_FIELDS)
_REQUEST_REGISTER = _request(0xAA, 0x00, _REGISTER_FIELDS)
_REQUEST_UNREGISTER = _request(0xAA, 0x01, _RANGE_FIELDS, direction=2)
_REQUEST_SCAN = _request(ord("f"), 16, _SCAN_FIELDS)


def address_of(data: Bytes) -> int:
    return int(data.__array_interface__["data"][0])


class Watched(NamedTuple):
    """Memory as it was at a moment.

    Attributes
    ----------
    start, end : int
        Addresses of the whole pages in it.
    edges : tuple[bytes, bytes]
        What lay before and behind these.
    """

    start: int
    end: int
    edges: tuple[bytes, bytes]


class Watch:
    """Watches memory of this process.

    Parameters
    ----------
    faults, pages : int
        Descriptors of a userfaultfd and of the own page map; owned from now on.
    """

    def __init__(self, faults: int, pages: int) -> None:
        self._faults = faults
        self._pages = pages
        self._process = os.getpid()
        self._watched: set[tuple[int, int]] = set()
        _open.add(self)

    @classmethod
    def open(cls) -> Watch | None:
        """None where the kernel cannot do it, or does not let this process."""
        try:
            faults = _userfaultfd()
        except OSError:
            return None
        try:
            _ioctl(faults, _REQUEST_API, _API_FIELDS, _API, _WP_UNPOPULATED | _WP_ASYNC, 0)
            return cls(faults, os.open("/proc/self/pagemap", os.O_RDONLY | os.O_CLOEXEC))
        except OSError:
            os.close(faults)
            return None

    def begin(self, memory: Sequence[Bytes]) -> list[Watched | None]:
        """Watch each of these from now on; None for what cannot be watched.

        That is what is no private anonymous memory, or less than a page, or beyond `MOST_RANGES`, or what
        another of these watches: it would take memory that was mapped anew for what it knows.
        """
        private = _Private.now() if memory else None
        return [self._begun(data, private) if private is not None else None for data in memory]

    def is_written(self, watched: Watched, data: Bytes) -> bool:
        """Whether any of it was written to since, or is no longer the memory that it was.

        Parameters
        ----------
        data : uint8[...]
            The same memory, alive.
        """
        if os.getpid() != self._process or _edges(data, watched.start, watched.end) != watched.edges:
            return True
        try:
            written = self._scan(watched.start, watched.end, mask=_WRITTEN)
            gone = self._scan(
                watched.start, watched.end, mask=_PRESENT | _SWAPPED, inverted=_PRESENT | _SWAPPED
            )
        except OSError:  # unmapped or mapped anew since
            return True
        return written or gone

    def end(self, watched: Watched) -> None:
        """Watch it no longer."""
        self._watched.discard((watched.start, watched.end))
        with suppress(OSError):
            size = watched.end - watched.start
            _ioctl(self._faults, _REQUEST_UNREGISTER, _RANGE_FIELDS, watched.start, size)

    def close(self) -> None:
        """Watch nothing any more."""
        if self._faults >= 0:
            os.close(self._faults)
            os.close(self._pages)
        self._faults = self._pages = -1
        self._watched.clear()

    def _begun(self, data: Bytes, private: _Private) -> Watched | None:
        page = os.sysconf("SC_PAGESIZE")
        address = address_of(data)
        start, end = -(-address // page) * page, (address + len(data)) // page * page
        if start >= end or not private.holds(start, end) or len(self._watched) >= MOST_RANGES:
            return None
        if any(watch._overlaps(start, end) for watch in list(_open) if watch is not self):
            return None
        try:
            _ioctl(self._faults, _REQUEST_REGISTER, _REGISTER_FIELDS, start, end - start, _MODE_WP, 0)
            self._watched.add((start, end))
            self._scan(start, end, mask=_WRITTEN, flags=_SCAN_PROTECT)
        except OSError:
            return None
        return Watched(start, end, _edges(data, start, end))

    def _overlaps(self, start: int, end: int) -> bool:
        return any(its_start < end and start < its_end for its_start, its_end in list(self._watched))

    def _scan(self, start: int, end: int, *, mask: int, inverted: int = 0, flags: int = 0) -> bool:
        """Whether any page of a range is such; with ``_SCAN_PROTECT`` each of them is protected."""
        found = (ctypes.c_uint64 * 3)()
        room = 0 if flags & _SCAN_PROTECT else 1  # one is enough to know; protecting needs no answer
        where = ctypes.addressof(found) if room else 0
        fields = (struct.calcsize(_SCAN_FIELDS), flags | _SCAN_CHECK, start, end, 0, where, room, room)
        return _ioctl(self._pages, _REQUEST_SCAN, _SCAN_FIELDS, *fields, inverted, mask, 0, mask) > 0


class _Private:
    """The private anonymous memory of this process: nobody else can write to it."""

    def __init__(self, ranges: Sequence[tuple[int, int]]) -> None:
        self._ranges = ranges
        self._starts = [start for start, _ in ranges]

    @classmethod
    def now(cls) -> _Private:
        ranges: list[tuple[int, int]] = []
        with Path("/proc/self/maps").open() as lines:
            for line in lines:
                place, rights, _, _, inode = line.split(maxsplit=5)[:5]
                if rights[3] == "p" and inode == "0":
                    start, end = (int(address, 16) for address in place.split("-"))
                    if ranges and ranges[-1][1] == start:
                        start = ranges.pop()[0]
                    ranges.append((start, end))
        return cls(ranges)

    def holds(self, start: int, end: int) -> bool:
        number = bisect.bisect_right(self._starts, start) - 1
        return number >= 0 and end <= self._ranges[number][1]


def _userfaultfd() -> int:
    number = _SYSCALL.get(os.uname().machine)
    if number is None:
        raise OSError("the number of this system call is not known here")
    libc = ctypes.CDLL(None, use_errno=True)
    descriptor = libc.syscall(ctypes.c_long(number), ctypes.c_long(os.O_CLOEXEC | _USER_MODE_ONLY))
    if descriptor < 0:
        raise OSError(ctypes.get_errno(), "userfaultfd")
    return int(descriptor)


def _ioctl(descriptor: int, request: int, fields: str, *values: int) -> int:
    import fcntl

    return int(fcntl.ioctl(descriptor, request, bytearray(struct.pack(fields, *values)), True))


def _edges(data: Bytes, start: int, end: int) -> tuple[bytes, bytes]:
    address = address_of(data)
    return data[: start - address].tobytes(), data[end - address :].tobytes()
