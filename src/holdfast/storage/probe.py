"""What a folder's file system can do, found out by doing it."""

from __future__ import annotations

import errno
import fcntl
import mmap
import os
import secrets
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import msgspec

from holdfast.storage.direct import O_DIRECT, Alignment
from holdfast.storage.faults import told_plainly
from holdfast.storage.keys import TEMPORARY_PREFIX
from holdfast.storage.linux import direct_alignment, rename_absent

O_TMPFILE: int = getattr(os, "O_TMPFILE", 0)

_REFUSALS = frozenset(
    (errno.EINVAL, errno.EOPNOTSUPP, errno.ENOSYS, errno.EISDIR, errno.EPERM, errno.EMLINK, errno.ENOLCK)
)
# On these one kernel sees every open file. On any other, a lock may be known to one machine only.
_LOCAL_TYPES = frozenset(
    (
        *("bcachefs", "btrfs", "exfat", "ext2", "ext3", "ext4", "f2fs", "hfsplus", "jfs", "nilfs2"),
        *("ntfs3", "overlay", "ramfs", "reiserfs", "tmpfs", "vfat", "xfs", "zfs"),
    )
)
_WITHOUT = {
    "direct": "Direct I/O is refused here: large files go through the page cache, more slowly.",
    "unnamed_files": "Unnamed temporary files (O_TMPFILE) are missing here: named ones are used, "
    "and a killed save can leave one behind until the next sweep.",
    "hard_links": "Hard links are missing here: new files are published by renaming.",
    "exclusive_rename": "Renaming only onto an absent name is missing here: a lock guards it where links "
    "are missing too.",
    "directory_sync": "A folder cannot be synced here: the whole file system is synced instead, more slowly.",
    "exclusive_locks": "Locks here may exclude only this machine's processes, or none: grace periods "
    "replace them, so deleted checkpoints give back their space later.",
}


class Features(msgspec.Struct, frozen=True, kw_only=True):
    """What a file system can do; each thing missing is replaced by a safe, slower way."""

    filesystem: str = "unknown"
    direct: bool = True
    alignment: Alignment = Alignment()
    unnamed_files: bool = True
    hard_links: bool = True
    exclusive_rename: bool = True
    directory_sync: bool = True
    exclusive_locks: bool = True

    def missing(self) -> dict[str, str]:
        """One sentence for each missing feature: what is missing and what is done instead."""
        return {name: sentence for name, sentence in _WITHOUT.items() if not getattr(self, name)}


def probe(path: str | os.PathLike[str]) -> Features:
    """Try each feature in an existing, writable folder; nothing is left behind.

    Raises
    ------
    StorageError
        The folder cannot be written: absent, read-only, full.
    """
    root = Path(path)
    with told_plainly("probing", str(root)):
        folder = os.open(root, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        try:
            return _probed(folder, root)
        finally:
            os.close(folder)


def filesystem_type(path: Path) -> str:
    """Type of the file system that holds ``path``, as the kernel names it."""
    try:
        mounts = Path("/proc/self/mounts").read_bytes().splitlines()
    except OSError:
        return "unknown"
    where = os.path.realpath(path)
    found, depth = "unknown", -1
    for mount in mounts:
        _, point, kind = mount.split()[:3]
        above = os.fsdecode(point.decode("unicode_escape").encode("latin-1"))
        if len(above) >= depth and (where + "/").startswith(above.rstrip("/") + "/"):
            found, depth = kind.decode(), len(above)
    return found


def locks_exclude(path: Path) -> bool:
    """Whether a kernel lock here keeps out every other process; writes nothing."""
    return filesystem_type(path) in _LOCAL_TYPES and _works(lambda: _lock_twice(path))


def _probed(folder: int, root: Path) -> Features:
    name = f"{TEMPORARY_PREFIX}probe-{secrets.token_hex(8)}"
    descriptor = os.open(name, os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600, dir_fd=folder)
    try:
        memory_bytes, offset_bytes = direct_alignment(descriptor) or (4096, 4096)
        return Features(
            filesystem=filesystem_type(root),
            direct=_works(lambda: _write_directly(folder, name)),
            alignment=Alignment(memory_bytes, offset_bytes),
            unnamed_files=_works(lambda: _link_unnamed(folder, name + "u")),
            hard_links=_works(lambda: _link(folder, name, name + "l")),
            exclusive_rename=_works(lambda: _rename_exclusively(folder, name, name + "r")),
            directory_sync=_works(lambda: os.fsync(folder)),
            exclusive_locks=locks_exclude(root),
        )
    finally:
        os.close(descriptor)
        os.unlink(name, dir_fd=folder)


def _works(attempt: Callable[[], None]) -> bool:
    """Whether the system agrees; a full or failing disk proves nothing and is raised."""
    try:
        attempt()
    except OSError as error:
        if error.errno in _REFUSALS:
            return False
        raise
    return True


def _refuse() -> OSError:
    return OSError(errno.ENOSYS, os.strerror(errno.ENOSYS))


def _write_directly(folder: int, name: str) -> None:
    if not O_DIRECT:
        raise _refuse()
    descriptor = os.open(name, os.O_WRONLY | O_DIRECT | os.O_CLOEXEC, dir_fd=folder)
    try:
        with mmap.mmap(-1, mmap.PAGESIZE) as page, _room_aside():
            os.pwrite(descriptor, page, 0)
    finally:
        os.close(descriptor)


@contextmanager
def _room_aside() -> Iterator[None]:
    try:
        yield
    except OSError as error:
        # A full disk has understood the call: that is all there was to learn.
        if error.errno not in (errno.ENOSPC, errno.EDQUOT):
            raise


def _link_unnamed(folder: int, name: str) -> None:
    if not O_TMPFILE:
        raise _refuse()
    descriptor = os.open(".", O_TMPFILE | os.O_WRONLY | os.O_CLOEXEC, 0o600, dir_fd=folder)
    try:
        os.link(f"/proc/self/fd/{descriptor}", name, dst_dir_fd=folder, follow_symlinks=True)
        os.unlink(name, dir_fd=folder)
    except FileNotFoundError:
        raise _refuse() from None  # no /proc here: an unnamed file could not get its name
    finally:
        os.close(descriptor)


def _link(folder: int, name: str, other: str) -> None:
    os.link(name, other, src_dir_fd=folder, dst_dir_fd=folder)
    os.unlink(other, dir_fd=folder)


def _rename_exclusively(folder: int, name: str, other: str) -> None:
    os.close(os.open(other, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600, dir_fd=folder))
    try:
        rename_absent(other, folder, name, folder)
    except FileExistsError:
        return
    finally:
        with suppress(FileNotFoundError):
            os.unlink(other, dir_fd=folder)
    raise _refuse()  # it replaced the file: the flag was ignored


def _lock_twice(folder: Path) -> None:
    first, second = (os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC) for _ in range(2))
    try:
        fcntl.flock(first, fcntl.LOCK_EX | fcntl.LOCK_NB)
        fcntl.flock(second, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return
    finally:
        os.close(first)
        os.close(second)
    raise _refuse()  # both got it: it excludes nothing
