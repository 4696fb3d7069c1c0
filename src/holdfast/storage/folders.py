"""Folders of a local storage, reached step by step so that no symbolic link is followed out."""

from __future__ import annotations

import errno
import os
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from holdfast.storage.linux import sync_filesystem

_ROOT_FLAGS = os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC
_REFUSALS = (errno.EINVAL, errno.ENOSYS, errno.EOPNOTSUPP)
_FOLDER_FLAGS = _ROOT_FLAGS | os.O_NOFOLLOW


class Folders:
    """Opens, creates and syncs the folders below a root.

    Nothing stays open between calls, so the file system can be unmounted at any time.
    """

    def __init__(self, root: Path) -> None:
        self.root = root
        self._durable: set[tuple[str, ...]] = set()

    @contextmanager
    def opened(self, names: tuple[str, ...]) -> Iterator[int]:
        """Descriptor of an existing folder; FileNotFoundError if it is absent."""
        descriptor = os.open(self.root, _ROOT_FLAGS)
        try:
            for name in names:
                descriptor = _stepped(descriptor, os.open(name, _FOLDER_FLAGS, dir_fd=descriptor))
            yield descriptor
        finally:
            os.close(descriptor)

    @contextmanager
    def ready(self, names: tuple[str, ...], *, directory_sync: bool) -> Iterator[int]:
        """Descriptor of a folder that exists durably, created with its parents below the root if need be."""
        descriptor = os.open(self.root, _ROOT_FLAGS)
        try:
            for depth, name in enumerate(names, start=1):
                inner = self._entered(descriptor, name, names[:depth], directory_sync=directory_sync)
                descriptor = _stepped(descriptor, inner)
            yield descriptor
        finally:
            os.close(descriptor)

    def exists(self) -> bool:
        """Whether the root itself is there."""
        try:
            return self.root.is_dir()
        except OSError:
            return False  # what cannot be looked at is not known to be there

    def _entered(self, parent: int, name: str, path: tuple[str, ...], *, directory_sync: bool) -> int:
        try:
            inner = os.open(name, _FOLDER_FLAGS, dir_fd=parent)
        except FileNotFoundError:
            self._durable.discard(path)
            inner = _created(parent, name)
        if path not in self._durable:
            # Also when it was there: whoever made it may have died before syncing its name.
            try:
                sync_folder(parent, directory_sync=directory_sync)
            except OSError:
                os.close(inner)
                raise
            self._durable.add(path)
        return inner


def create_root(root: Path) -> None:
    """Create a root with its parents, each name durable."""
    missing = [folder for folder in (root, *root.parents) if not folder.exists()]
    for folder in reversed(missing):
        folder.mkdir(mode=0o700, exist_ok=True)
        descriptor = os.open(folder.parent, _ROOT_FLAGS)
        try:
            sync_folder(descriptor, directory_sync=True)
        finally:
            os.close(descriptor)


def sync_folder(descriptor: int, *, directory_sync: bool) -> None:
    """Make the names in a folder durable; where folders cannot be synced, the whole file system."""
    if not (directory_sync and _synced(descriptor)):
        sync_filesystem(descriptor)
    # XFS reports success for a folder it could not sync because it just shut down (seen in 5 of 60
    # power cuts amid writes); asked for attributes after that, it admits EIO.
    os.fstat(descriptor)


def _synced(descriptor: int) -> bool:
    try:
        os.fsync(descriptor)
    except OSError as error:
        if error.errno in _REFUSALS:
            return False
        raise
    return True


def _created(parent: int, name: str) -> int:
    with suppress(FileExistsError):
        os.mkdir(name, 0o700, dir_fd=parent)
    return os.open(name, _FOLDER_FLAGS, dir_fd=parent)


def _stepped(outer: int, inner: int) -> int:
    os.close(outer)
    return inner
