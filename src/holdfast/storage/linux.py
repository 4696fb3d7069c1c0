"""Linux calls that Python's `os` lacks; each says so where the system lacks it too."""

from __future__ import annotations

import ctypes
import errno
import os
from contextlib import suppress

_AT_EMPTY_PATH = 0x1000
_STATX_DIOALIGN = 0x2000
_STATX_SIZE_BYTES = 256
_MASK_AT, _MEMORY_AT, _OFFSET_AT = 0, 152, 156
_RENAME_NOREPLACE = 1
_RENAME_EXCHANGE = 2
_AT_FDCWD = -100
_PR_SET_PDEATHSIG = 1


class _Libc:
    loaded: ctypes.CDLL | None = None


def _libc() -> ctypes.CDLL:
    # Loaded on first use: importing this module must cost nothing.
    if _Libc.loaded is None:
        _Libc.loaded = ctypes.CDLL(None, use_errno=True)
    return _Libc.loaded


def prepare() -> None:
    """Load what the calls need now: a forked child must not load anything."""
    with suppress(TypeError, OSError):  # other systems
        _libc()


def direct_alignment(descriptor: int) -> tuple[int, int] | None:
    """Alignment in bytes that direct I/O asks of memory and of offsets; None if unknown."""
    try:
        statx = _libc().statx
    except AttributeError:
        return None
    answer = (ctypes.c_ubyte * _STATX_SIZE_BYTES)()
    if statx(descriptor, b"", _AT_EMPTY_PATH, _STATX_DIOALIGN, answer) != 0:
        return None
    raw = bytes(answer)
    mask, memory, offset = (
        int.from_bytes(raw[at : at + 4], "little") for at in (_MASK_AT, _MEMORY_AT, _OFFSET_AT)
    )
    return (memory, offset) if mask & _STATX_DIOALIGN and memory and offset else None


def rename_absent(source: str, source_folder: int, target: str, target_folder: int) -> None:
    """Rename unless the target exists, atomically.

    Raises
    ------
    FileExistsError
        The target exists.
    OSError
        With EINVAL or ENOSYS where the file system or system cannot.
    """
    _renamed(source, source_folder, target, target_folder, _RENAME_NOREPLACE)


def rename_exchange(source: str, target: str) -> None:
    """Let two files or folders change places, atomically.

    Raises
    ------
    OSError
        With EINVAL or ENOSYS where the file system or system cannot.
    """
    _renamed(source, _AT_FDCWD, target, _AT_FDCWD, _RENAME_EXCHANGE)


def _renamed(source: str, source_folder: int, target: str, target_folder: int, flags: int) -> None:
    try:
        renameat2 = _libc().renameat2
    except AttributeError:
        raise OSError(errno.ENOSYS, os.strerror(errno.ENOSYS)) from None
    if renameat2(source_folder, os.fsencode(source), target_folder, os.fsencode(target), flags):
        code = ctypes.get_errno()
        raise OSError(code, os.strerror(code), target)


def sync_filesystem(descriptor: int) -> None:
    """Make everything on the descriptor's file system durable: slow, but it needs no directory fsync."""
    try:
        syncfs = _libc().syncfs
    except AttributeError:
        os.sync()
        return
    if syncfs(descriptor):
        code = ctypes.get_errno()
        raise OSError(code, os.strerror(code))


def die_with_parent(parent: int, number: int) -> None:
    """Have the kernel send this process a signal when its parent dies, where it can.

    Parameters
    ----------
    parent : int
        Who it was as this process began: it may have died by now.
    number : int
        The signal.
    """
    try:
        prctl = _libc().prctl
    except (AttributeError, TypeError, OSError):
        return
    prctl(_PR_SET_PDEATHSIG, number, 0, 0, 0)
    if os.getppid() == 1 and parent != 1:  # it died before we asked
        os._exit(1)
