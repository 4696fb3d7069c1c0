"""What the operating system's refusals mean to a person: `OSError` to `StorageError`."""

from __future__ import annotations

import errno
import os
from collections.abc import Collection, Iterator
from contextlib import contextmanager

from holdfast.errors import StorageError

_MEANINGS: dict[int, tuple[str, str]] = {
    errno.ENOSPC: ("no space is left", "Free space there, or keep fewer checkpoints."),
    errno.EDQUOT: ("the disk quota is used up", "Free space, or ask for a larger quota."),
    errno.EFBIG: ("the file-size limit was reached", "Raise the limit (`ulimit -f`)."),
    errno.EIO: ("the device reported an I/O error", "Check the disk and the kernel log, or use another one."),
    errno.EROFS: (
        "the file system is read-only",
        "Remount it for writing; after a disk error, check it first.",
    ),
    errno.EACCES: ("permission was denied", "Give this user access to the folder."),
    errno.EPERM: (
        "the operation is not permitted",
        "Check owner, attributes and mount options of the folder.",
    ),
    errno.ENOENT: ("the folder has vanished", "Mount or restore it, or give another place."),
    errno.ESTALE: ("the network file system lost the file (stale handle)", "Remount it, then try again."),
    errno.ENAMETOOLONG: (
        "the name is too long for this file system",
        "Use a shorter name for the run or tag.",
    ),
    errno.ELOOP: ("a symbolic link stands in the way", "Replace it by a real file or folder."),
    errno.ENOTDIR: ("a link or file stands where a folder belongs", "Replace it by a real folder."),
    errno.EISDIR: ("a folder stands where a file belongs", "Move that folder away."),
    errno.EMFILE: ("this process has too many open files", "Raise the limit (`ulimit -n`)."),
    errno.ENFILE: (
        "the system has too many open files",
        "Close other programs, or raise the system's limit.",
    ),
    errno.ENOTCONN: ("the file system is disconnected", "Remount it, then try again."),
    errno.EXDEV: ("a folder inside lies on another file system", "Keep the whole folder on one file system."),
}


def storage_error(error: OSError, doing: str, location: str) -> StorageError:
    """Say in one sentence what failed where, and in one what to do.

    ``doing`` is a gerund with its object, such as ``writing packs/3f/3f9a.pack``.
    """
    code = error.errno
    meaning, do = _MEANINGS.get(code or 0, (os.strerror(code) if code else str(error), "See the system log."))
    return StorageError(f"{doing[:1].upper()}{doing[1:]} in {location} failed: {meaning}.", do=do, errno=code)


def outcome_unknown(error: OSError, key: str, location: str) -> StorageError:
    """Report an object that is visible but may not survive power loss; it is left alone."""
    why = os.strerror(error.errno) if error.errno else str(error)
    return StorageError(
        f"Whether {key} in {location} is durable is unknown: its folder could not be synced ({why}).",
        do="Check the disk and the kernel log; do not count on this object.",
        errno=error.errno,
    )


@contextmanager
def told_plainly(doing: str, location: str, *, but: Collection[OSError] = ()) -> Iterator[None]:
    """Turn any `OSError` of the block, save those in ``but``, into a `StorageError`."""
    try:
        yield
    except OSError as error:
        if any(error is other for other in but):
            raise
        raise storage_error(error, doing, location) from error
