"""Files and folders that appear whole or not at all.

Written under a temporary name beside the target, synced, then moved into place. A target that
is a symbolic link is refused, never followed; an existing one stays unless replaced on purpose.
"""

from __future__ import annotations

import glob
import os
import secrets
import shutil
import stat
from collections.abc import Collection, Iterator
from contextlib import contextmanager, suppress
from fnmatch import fnmatchcase
from pathlib import Path
from typing import IO

from holdfast.errors import StorageError, UsageError
from holdfast.storage.faults import told_plainly
from holdfast.storage.linux import rename_absent, rename_exchange

_CREATE = os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC | os.O_NOFOLLOW
_REPLACE = "Choose another name, or replace it with overwrite=True (--overwrite)."


def check_target(path: Path, *, overwrite: bool, folder: bool = False) -> None:
    """Refuse, before any work, a target that must not be written.

    Raises
    ------
    UsageError
        It exists, is a symbolic link or of the other kind, or its folder is not there.
    """
    if path.name in ("", "..") or "\0" in str(path):
        raise UsageError(f"{str(path)!r} cannot name what to write.", do="Give a file or folder name.")
    with told_plainly("looking up the folder", str(path.parent)):
        parent_is_folder = path.parent.is_dir()
    if not parent_is_folder:
        raise UsageError(f"The folder {path.parent} does not exist.", do="Create it first.")
    try:
        mode = path.lstat().st_mode
    except FileNotFoundError:
        return
    if stat.S_ISLNK(mode):
        raise UsageError(f"{path} is a symbolic link, which is never followed.", do="Give a real path.")
    if stat.S_ISDIR(mode) != folder:
        is_what, wanted = ("a folder", "a file") if not folder else ("a file", "a folder")
        raise UsageError(f"{path} is {is_what}, but {wanted} is to be written.", do="Choose another name.")
    if not overwrite:
        raise UsageError(f"{path} exists already.", do=_REPLACE)


@contextmanager
def new_file(path: Path, *, overwrite: bool) -> Iterator[IO[bytes]]:
    """Write a file; on leaving without an error it is durable and has its name.

    Raises
    ------
    UsageError, StorageError
        Nothing became visible.
    """
    check_target(path, overwrite=overwrite)
    temporary = _beside(path)
    with told_plainly(f"writing {path.name}", str(path.parent)):
        descriptor = os.open(temporary, _CREATE, 0o666)
        try:
            with os.fdopen(descriptor, "wb") as file:
                yield file
                file.flush()
                os.fsync(file.fileno())
            _move(temporary, path, overwrite=overwrite)
        finally:
            with suppress(FileNotFoundError):
                temporary.unlink()
        _sync_folder(path.parent)


@contextmanager
def new_folder(path: Path, *, overwrite: bool, replaceable: Collection[str]) -> Iterator[Path]:
    """Fill a folder; on leaving without an error it is durable and has its name.

    Parameters
    ----------
    replaceable : collection of str
        Names, with wildcards, of files that an existing folder may hold and still be replaced: never
        anything that looks like somebody's work.
    """
    check_target(path, overwrite=overwrite, folder=True)
    _check_replaceable(path, replaceable)
    temporary = _beside(path)
    with told_plainly(f"writing {path.name}", str(path.parent)):
        temporary.mkdir()
        try:
            yield temporary
            for file in temporary.iterdir():
                _sync(file, os.O_RDONLY)
            _sync_folder(temporary)
            _move(temporary, path, overwrite=overwrite)
        finally:
            shutil.rmtree(temporary, ignore_errors=True)
        _sync_folder(path.parent)


def sweep(path: Path) -> None:
    """Remove what writers of a target that were killed have left beside it; none of them lives."""
    for left in path.parent.glob(glob.escape(_stem(path)) + "[0-9a-f]" * 12 + _TEMPORARY):
        with told_plainly(f"removing {left.name}", str(path.parent)):
            shutil.rmtree(left) if left.is_dir() else left.unlink(missing_ok=True)


def write_beside(path: Path, data: bytes) -> None:
    """Replace a small file that may be lost: whole, but not durable."""
    temporary = _beside(path)
    with told_plainly(f"writing {path.name}", str(path.parent)):
        temporary.write_bytes(data)
        temporary.replace(path)


_TEMPORARY = ".tmp"


def _stem(path: Path) -> str:
    return f".{path.name[:80]}."


def _beside(path: Path) -> Path:
    return path.with_name(f"{_stem(path)}{secrets.token_hex(6)}{_TEMPORARY}")


def _move(temporary: Path, path: Path, *, overwrite: bool) -> None:
    """Give it its name. A folder that stands there changes places with it: rename cannot replace it."""
    try:
        rename_absent(str(temporary), _HERE, str(path), _HERE)
    except FileExistsError:
        if not overwrite:
            raise UsageError(f"{path} exists already.", do=_REPLACE) from None
    except OSError:
        if not overwrite and os.path.lexists(path):
            raise UsageError(f"{path} exists already.", do=_REPLACE) from None
    else:
        return
    if not temporary.is_dir() or not os.path.lexists(path):
        temporary.replace(path)
        return
    try:
        rename_exchange(str(temporary), str(path))
    except OSError:  # not on this system: for a moment nothing has the name
        old = _beside(path)
        path.rename(old)
        temporary.rename(path)
        shutil.rmtree(old, ignore_errors=True)


_HERE = -100  # AT_FDCWD


def _check_replaceable(path: Path, names: Collection[str]) -> None:
    if not path.is_dir():
        return
    foreign = [f.name for f in path.iterdir() if f.is_dir() or not any(fnmatchcase(f.name, n) for n in names)]
    if foreign:
        raise UsageError(
            f"{path} holds {sorted(foreign)[0]!r}, which no export wrote, so it is not replaced.",
            do="Choose another folder.",
        )


def _sync(path: Path, flags: int) -> None:
    descriptor = os.open(path, flags | os.O_CLOEXEC)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _sync_folder(path: Path) -> None:
    try:
        _sync(path, os.O_RDONLY | os.O_DIRECTORY)
    except OSError as error:
        raise StorageError(
            f"Whether {path} is durable is unknown: it could not be synced ({error.strerror}).",
            do="Check the disk.",
            errno=error.errno,
        ) from error
