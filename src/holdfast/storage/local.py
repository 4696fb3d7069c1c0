"""A local folder as storage, by the commit that survives power loss on ext4 and XFS.

Write an unnamed file, fsync it, link it to its name, fsync its folder and every new parent. What a
file system lacks (see `probe`) is replaced by the safe, slower way.
"""

from __future__ import annotations

import builtins
import errno
import os
import stat as modes
import threading
import time
from collections.abc import Iterable, Iterator
from contextlib import AbstractContextManager, ExitStack, contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

from holdfast.errors import NotFoundError, StorageError
from holdfast.storage.base import ObjectStat
from holdfast.storage.direct import (
    O_DIRECT,
    Alignment,
    Bounces,
    DirectWriter,
    expect_no_more,
    read_buffered,
    read_direct,
    worth_direct,
    write_all,
)
from holdfast.storage.drafts import Draft, draft, exists, publish, sweep
from holdfast.storage.faults import outcome_unknown, storage_error, told_plainly
from holdfast.storage.folders import Folders, create_root, sync_folder
from holdfast.storage.keys import LOCK_FOLDER, check_key, check_prefix, is_hidden, is_lock
from holdfast.storage.linux import direct_alignment
from holdfast.storage.locks import kernel_lock, lock_file_name
from holdfast.storage.probe import Features, locks_exclude, probe

if TYPE_CHECKING:
    import numpy as np
    import numpy.typing as npt

    from holdfast.storage.base import Buffer

_STAGING = (LOCK_FOLDER,)
# Without O_NONBLOCK a planted FIFO would hang the reader.
_READ_FLAGS = os.O_RDONLY | os.O_CLOEXEC | os.O_NOFOLLOW | os.O_NONBLOCK
_UNPROVEN_SWEEP_SECONDS = 86_400.0


class LocalStorage:
    """Objects as files below one folder; safe from many threads and processes.

    Parameters
    ----------
    path : path
        The folder.
    features : Features, optional
        What its file system can do; probed at the first need if not given.
    create : bool
        Create the folder, durably, if it is absent.
    """

    def __init__(
        self, path: str | os.PathLike[str], *, features: Features | None = None, create: bool = False
    ) -> None:
        self._root = Path(path).absolute()
        self._folders = Folders(self._root)
        self._features = features
        self._probing = threading.Lock()
        self._bounces = Bounces()
        if create:
            with told_plainly("creating the folder", self.location):
                create_root(self._root)

    @property
    def location(self) -> str:
        return str(self._root)

    @property
    def features(self) -> Features:
        """What the file system can do."""
        with self._probing:
            if self._features is None:
                # In the staging folder: what a kill leaves of a probe is swept with the rest.
                with told_plainly("probing", self.location), self._ready(_STAGING):
                    self._features = probe(self._root / LOCK_FOLDER)
            return self._features

    # Writing.

    def put(self, key: str, parts: Iterable[Buffer]) -> None:
        self._commit(key, parts, direct=self.features.direct, replace=True)

    def put_if_absent(self, key: str, data: bytes) -> bool:
        return self._commit(key, (data,), direct=False, replace=False)

    def delete(self, key: str) -> None:
        *above, name = check_key(key)
        try:
            with self._folders.opened(tuple(above)) as folder:
                if exists(folder, name):
                    os.unlink(name, dir_fd=folder)
                sync_folder(folder, directory_sync=self._syncs_folders)
        except OSError as error:
            if not self._merely_absent(error):
                raise storage_error(error, f"deleting {key}", self.location) from error

    def sweep_temporaries(self, *, older_than_seconds: float) -> int:
        """Remove what killed writers left behind; return how many files.

        A temporary goes only if it is old and its writer's kernel lock is free, that is, the
        writer is dead. Where locks prove nothing it must also be a day old: a writer so slow
        fails to publish, loudly, and nothing is harmed.
        """
        least_seconds = 0.0 if self.exclusive_locks else _UNPROVEN_SWEEP_SECONDS
        before_seconds = self.now_seconds() - max(older_than_seconds, least_seconds)
        try:
            with self._folders.opened(_STAGING) as staging:
                return sweep(staging, before_seconds=before_seconds)
        except OSError as error:
            if self._merely_absent(error):
                return 0
            raise storage_error(error, "sweeping temporaries", self.location) from error

    def _commit(self, key: str, parts: Iterable[Buffer], *, direct: bool, replace: bool) -> bool:
        *above, name = check_key(key)
        features = self.features
        produced: list[OSError] = []
        with (
            told_plainly(f"writing {key}", self.location, but=produced),
            self._ready(tuple(above)) as folder,
            self._ready(_STAGING) as staging,
        ):
            created = False
            if replace or not exists(folder, name):
                with draft(folder, staging, features, direct=direct) as written:
                    self._fill(written, _watched(parts, produced), direct=direct)
                    # A failed fsync is final for this file: the error discards it, nothing retries.
                    os.fsync(written.descriptor)
                    created = publish(written, folder, name, features, replace=replace)
            self._settle(folder, key)
        return created

    def _fill(self, written: Draft, parts: Iterable[Buffer], *, direct: bool) -> None:
        if not direct:
            offset = 0
            for part in parts:
                offset += write_all(written.descriptor, part, offset)
            return
        with DirectWriter(written.descriptor, self.features.alignment, self._bounces) as writer:
            for part in parts:
                writer.write(part)
            writer.finish()

    def _settle(self, folder: int, key: str) -> None:
        # Also when the object was there before: its writer may have died before syncing the name.
        try:
            sync_folder(folder, directory_sync=self._syncs_folders)
        except OSError as error:
            raise outcome_unknown(error, key, self.location) from error

    def _ready(self, names: tuple[str, ...]) -> AbstractContextManager[int]:
        return self._folders.ready(names, directory_sync=self._syncs_folders)

    @property
    def _syncs_folders(self) -> bool:
        # Deleting must work on a full disk, where nothing can be probed by writing.
        return self._features is None or self._features.directory_sync

    # Reading.

    def get(self, key: str, start: int = 0, stop: int | None = None) -> bytes:
        with self._opened(key) as descriptor:
            size_bytes = os.fstat(descriptor).st_size
            end = size_bytes if stop is None else min(stop, size_bytes)
            if end - start < size_bytes:
                expect_no_more(descriptor)
            pieces = []
            while start < end and (piece := os.pread(descriptor, end - start, start)):
                pieces.append(piece)
                start += len(piece)
            return b"".join(pieces)

    def read_into(self, key: str, start: int, buffer: npt.NDArray[np.uint8]) -> int:
        if self._reads_directly(len(buffer)):
            try:
                return self._read_directly(key, start, buffer)
            except StorageError as error:
                if error.errno != errno.EINVAL:
                    raise
        with self._opened(key) as descriptor:
            return read_buffered(descriptor, start, buffer)

    def stat(self, key: str) -> ObjectStat | None:
        *above, name = check_key(key)
        try:
            with self._folders.opened(tuple(above)) as folder:
                found = os.stat(name, dir_fd=folder, follow_symlinks=False)
        except OSError as error:
            if self._merely_absent(error):
                return None
            raise storage_error(error, f"looking up {key}", self.location) from error
        if not modes.S_ISREG(found.st_mode):
            return None
        return ObjectStat(size_bytes=found.st_size, modified_seconds=found.st_mtime_ns / 1e9)

    def list(self, prefix: str, start_after: str = "") -> Iterator[str]:
        yield from self._listed(check_prefix(prefix), start_after)

    def _listed(self, folder: tuple[str, ...], start_after: str) -> Iterator[str]:
        for name in self._entries(folder):
            key = "/".join((*folder, name))
            if key.endswith("/"):
                # A whole folder that sorts before the mark is not even opened.
                if key >= start_after or start_after.startswith(key):
                    yield from self._listed((*folder, name[:-1]), start_after)
            elif key > start_after and not is_lock((*folder, name)):
                yield key

    def _entries(self, names: tuple[str, ...]) -> builtins.list[str]:
        """Sorted names in a folder, those of folders ending in a slash as they sort in keys."""
        try:
            with self._folders.opened(names) as folder, os.scandir(folder) as entries:
                shown = (_shown(entry) for entry in entries if not is_hidden(entry.name))
                return sorted(name for name in shown if name)
        except OSError as error:
            if self._merely_absent(error):
                return []
            raise storage_error(error, f"listing {'/'.join(names) or 'everything'}", self.location) from error

    def _reads_directly(self, size_bytes: int) -> bool:
        return (
            bool(O_DIRECT) and worth_direct(size_bytes) and (self._features is None or self._features.direct)
        )

    def _read_directly(self, key: str, start: int, buffer: npt.NDArray[np.uint8]) -> int:
        with self._opened(key, O_DIRECT) as descriptor:
            alignment = Alignment(*(direct_alignment(descriptor) or ()))
            return read_direct(descriptor, start, buffer, alignment, self._bounces)

    @contextmanager
    def _opened(self, key: str, flags: int = 0) -> Iterator[int]:
        *above, name = check_key(key)
        try:
            with self._folders.opened(tuple(above)) as folder:
                descriptor = os.open(name, _READ_FLAGS | flags, dir_fd=folder)
            try:
                if not modes.S_ISREG(os.fstat(descriptor).st_mode):
                    raise OSError(errno.EISDIR, os.strerror(errno.EISDIR), key)
                yield descriptor
            finally:
                os.close(descriptor)
        except OSError as error:
            if self._merely_absent(error):
                raise NotFoundError(f"There is no {key} in {self.location}.") from error
            raise storage_error(error, f"reading {key}", self.location) from error

    def _merely_absent(self, error: OSError) -> bool:
        """Whether only the object is missing, not the whole storage."""
        return isinstance(error, FileNotFoundError) and self._folders.exists()

    # The place itself.

    def now_seconds(self) -> float:
        return time.time()

    def free_bytes(self) -> int | None:
        with told_plainly("asking for free space", self.location):
            room = os.statvfs(self._root)
        return room.f_bavail * room.f_frsize

    @property
    def sends_whole(self) -> bool:
        return False  # the disk writes one part while the next is made

    @property
    def exclusive_locks(self) -> bool:
        if self._features is not None:
            return self._features.exclusive_locks
        with told_plainly("probing locks", self.location):
            return locks_exclude(self._root)

    @contextmanager
    def lock(self, name: str, *, shared: bool, wait_seconds: float) -> Iterator[bool]:
        with ExitStack() as stack:
            yield self.exclusive_locks and self._locked(stack, name, shared=shared, wait_seconds=wait_seconds)

    def _locked(self, stack: ExitStack, name: str, *, shared: bool, wait_seconds: float) -> bool:
        with told_plainly(f"locking {name}", self.location), self._ready(_STAGING) as staging:
            taking = kernel_lock(staging, lock_file_name(name), shared=shared, wait_seconds=wait_seconds)
            return stack.enter_context(taking)


def _watched(parts: Iterable[Buffer], raised: builtins.list[OSError]) -> Iterator[Buffer]:
    """Note an error of the producer, which is not the storage's and must reach the caller as it is."""
    try:
        yield from parts
    except OSError as error:
        raised.append(error)
        raise


def _shown(entry: os.DirEntry[str]) -> str:
    """Name of a file, name and slash of a folder, nothing for what can be no object."""
    if entry.is_dir(follow_symlinks=False):
        return entry.name + "/"
    return entry.name if entry.is_file(follow_symlinks=False) else ""
