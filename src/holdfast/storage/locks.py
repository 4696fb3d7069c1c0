"""Kernel locks (flock) on files: they exclude threads and processes, and die with their holder."""

from __future__ import annotations

import fcntl
import os
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from urllib.parse import quote

from blake3 import blake3

from holdfast.storage.keys import LOCK_SUFFIX

_FLAGS = os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW | os.O_NONBLOCK
_SHORT_WAIT_SECONDS, _LONG_WAIT_SECONDS = 0.002, 0.1
_NAME_LIMIT_BYTES = 200

_held: set[int] = set()
_forks_watched: list[bool] = []


def lock_file_name(name: str) -> str:
    """File name of a lock: any text becomes one safe component."""
    quoted = quote(name, safe="")
    if len(quoted) > _NAME_LIMIT_BYTES:
        quoted = "~" + blake3(name.encode()).hexdigest()
    return quoted + LOCK_SUFFIX


@contextmanager
def kernel_lock(folder: int, name: str, *, shared: bool, wait_seconds: float) -> Iterator[bool]:
    """Hold the lock of that file name in an open folder; yield False if not to be had in time."""
    descriptor = _acquired(folder, name, fcntl.LOCK_SH if shared else fcntl.LOCK_EX, wait_seconds)
    if descriptor is None:
        yield False
        return
    _remember(descriptor)
    try:
        yield True
    finally:
        _release(descriptor)


def _acquired(folder: int, name: str, kind: int, wait_seconds: float) -> int | None:
    deadline = time.monotonic() + wait_seconds
    pause_seconds = _SHORT_WAIT_SECONDS
    while True:
        descriptor = _attempt(folder, name, kind)
        left_seconds = deadline - time.monotonic()
        if descriptor is not None or left_seconds <= 0:
            return descriptor
        time.sleep(min(pause_seconds, left_seconds))
        pause_seconds = min(pause_seconds * 2, _LONG_WAIT_SECONDS)


def _attempt(folder: int, name: str, kind: int) -> int | None:
    descriptor = os.open(name, _FLAGS, 0o600, dir_fd=folder)
    try:
        fcntl.flock(descriptor, kind | fcntl.LOCK_NB)
        if _is_current(folder, name, descriptor):
            return descriptor
    except BlockingIOError:
        pass
    except OSError:
        os.close(descriptor)
        raise
    os.close(descriptor)
    return None


def _is_current(folder: int, name: str, descriptor: int) -> bool:
    # Someone may have deleted the file between open and flock: that lock excludes nobody.
    try:
        seen = os.stat(name, dir_fd=folder, follow_symlinks=False)
    except FileNotFoundError:
        return False
    return os.path.samestat(seen, os.fstat(descriptor))


def _remember(descriptor: int) -> None:
    if not _forks_watched:
        _forks_watched.append(True)
        os.register_at_fork(after_in_child=_drop_in_child)
    _held.add(descriptor)


def _release(descriptor: int) -> None:
    if descriptor in _held:
        _held.discard(descriptor)
        # Unlock, not only close: a child forked past Python may hold a copy of the descriptor.
        with suppress(OSError):
            fcntl.flock(descriptor, fcntl.LOCK_UN)
        with suppress(OSError):
            os.close(descriptor)


def _drop_in_child() -> None:
    """Close inherited copies, or an orphaned data worker would hold a dead trainer's lock."""
    for descriptor in _held:
        with suppress(OSError):
            os.close(descriptor)
    _held.clear()
