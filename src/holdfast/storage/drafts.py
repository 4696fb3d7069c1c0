"""Files that have no name yet, or a temporary one, and how they get their own in one step."""

from __future__ import annotations

import errno
import fcntl
import os
import secrets
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager, suppress
from typing import TYPE_CHECKING

import msgspec

from holdfast.errors import StorageError
from holdfast.storage.direct import O_DIRECT
from holdfast.storage.keys import TEMPORARY_PREFIX
from holdfast.storage.linux import rename_absent
from holdfast.storage.locks import kernel_lock, lock_file_name
from holdfast.storage.probe import O_TMPFILE

if TYPE_CHECKING:
    from holdfast.storage.probe import Features

_PUBLISH_LOCK = "publish"
_PUBLISH_WAIT_SECONDS = 60.0


class Draft(msgspec.Struct, frozen=True):
    """A file being written; ``temporary`` is its name in the staging folder, None while unnamed."""

    descriptor: int
    staging: int
    temporary: str | None


@contextmanager
def draft(folder: int, staging: int, features: Features, *, direct: bool) -> Iterator[Draft]:
    """Open a new file for writing; unless published, it is gone afterwards.

    It is flocked: a temporary whose lock can be had has no living writer.
    """
    flags = os.O_WRONLY | os.O_CLOEXEC | (O_DIRECT if direct else 0)
    temporary = None if features.unnamed_files else _fresh_name()
    if temporary is None:
        descriptor = os.open(".", flags | O_TMPFILE, 0o600, dir_fd=folder)
    else:
        descriptor = os.open(temporary, flags | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW, 0o600, dir_fd=staging)
    try:
        with suppress(OSError):
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        yield Draft(descriptor, staging, temporary)
    finally:
        os.close(descriptor)
        _discard(staging, temporary)


def publish(written: Draft, folder: int, name: str, features: Features, *, replace: bool) -> bool:
    """Give a synced draft its name, atomically; False if it may not replace what is there."""
    if written.temporary is None:
        return _publish_unnamed(written, folder, name, replace=replace)
    if replace:
        os.rename(written.temporary, name, src_dir_fd=written.staging, dst_dir_fd=folder)
        return True
    try:
        _publish_absent(written.temporary, written.staging, folder, name, features)
    except FileExistsError:
        return False
    return True


def sweep(staging: int, *, before_seconds: float) -> int:
    """Remove temporaries older than that moment which no living writer locks; return how many."""
    names = [name for name in os.listdir(staging) if name.startswith(TEMPORARY_PREFIX)]
    return sum(_swept(staging, name, before_seconds) for name in names)


def _publish_unnamed(written: Draft, folder: int, name: str, *, replace: bool) -> bool:
    try:
        _link_unnamed(written.descriptor, folder, name)
    except FileExistsError:
        if not replace:
            return False
    else:
        return True
    # A link cannot replace: take a temporary name, then rename it over the old one.
    temporary = _fresh_name()
    _link_unnamed(written.descriptor, written.staging, temporary)
    try:
        os.rename(temporary, name, src_dir_fd=written.staging, dst_dir_fd=folder)
    except OSError:
        _discard(written.staging, temporary)
        raise
    return True


def _link_unnamed(descriptor: int, folder: int, name: str) -> None:
    os.link(f"/proc/self/fd/{descriptor}", name, dst_dir_fd=folder, follow_symlinks=True)


def _publish_absent(temporary: str, staging: int, folder: int, name: str, features: Features) -> None:
    """Name the file only if the name is free: by a link, else by a rename that refuses, else under a lock."""
    if features.hard_links:
        os.link(temporary, name, src_dir_fd=staging, dst_dir_fd=folder)
    elif features.exclusive_rename:
        rename_absent(temporary, staging, name, folder)
    else:
        with _publishing(staging, features):
            if exists(folder, name):
                raise FileExistsError(errno.EEXIST, os.strerror(errno.EEXIST), name)
            os.rename(temporary, name, src_dir_fd=staging, dst_dir_fd=folder)


@contextmanager
def _publishing(staging: int, features: Features) -> Iterator[None]:
    if not features.exclusive_locks:
        raise StorageError(
            f"This file system ({features.filesystem}) has no way to create a file only if it is absent.",
            do="Keep the repository on another file system or in an object store.",
            errno=errno.EOPNOTSUPP,
        )
    lock: AbstractContextManager[bool] = kernel_lock(
        staging, lock_file_name(_PUBLISH_LOCK), shared=False, wait_seconds=_PUBLISH_WAIT_SECONDS
    )
    with lock as held:
        if not held:
            raise TimeoutError(errno.ETIMEDOUT, os.strerror(errno.ETIMEDOUT))
        yield


def exists(folder: int, name: str) -> bool:
    """Whether anything of that name is in an open folder."""
    try:
        os.stat(name, dir_fd=folder, follow_symlinks=False)
    except FileNotFoundError:
        return False
    return True


def _swept(staging: int, name: str, before_seconds: float) -> bool:
    flags = os.O_RDONLY | os.O_CLOEXEC | os.O_NOFOLLOW | os.O_NONBLOCK
    try:
        descriptor = os.open(name, flags, dir_fd=staging)
    except FileNotFoundError:
        return False
    try:
        if os.fstat(descriptor).st_mtime >= before_seconds:
            return False
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        os.unlink(name, dir_fd=staging)
    except (BlockingIOError, FileNotFoundError):
        return False
    finally:
        os.close(descriptor)
    return True


def _discard(staging: int, temporary: str | None) -> None:
    # A name already renamed is gone; one that cannot be removed waits for the sweep.
    if temporary is not None:
        with suppress(OSError):
            os.unlink(temporary, dir_fd=staging)


def _fresh_name() -> str:
    return f"{TEMPORARY_PREFIX}{secrets.token_hex(16)}"
