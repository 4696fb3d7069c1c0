"""Which keys a storage accepts: relative POSIX paths that cannot leave it."""

from __future__ import annotations

from holdfast.errors import UsageError

TEMPORARY_PREFIX = ".tmp-"
LOCK_FOLDER = "staging"
LOCK_SUFFIX = ".lock"

_NAME_LIMIT_BYTES = 255
_KEY_LIMIT_BYTES = 2048


def check_key(key: str) -> tuple[str, ...]:
    """Return the components of a valid key; refuse any other.

    Raises
    ------
    UsageError
        Absolute, empty, with ``.``, ``..``, NUL, over-long or reserved components.
    """
    names = tuple(key.split("/"))
    for name in names:
        _check_name(key, name)
    if len(key.encode()) > _KEY_LIMIT_BYTES or is_lock(names):
        raise _refused(key, "is too long or reserved for locks")
    return names


def check_prefix(prefix: str) -> tuple[str, ...]:
    """Return the components of a folder prefix: empty, or a valid key and a slash."""
    if prefix == "":
        return ()
    if not prefix.endswith("/"):
        raise _refused(prefix, "names no folder: it must end in '/'")
    return check_key(prefix[:-1])


def is_lock(names: tuple[str, ...]) -> bool:
    """Whether these components name a lock, which is no object."""
    return names[:-1] == (LOCK_FOLDER,) and names[-1].endswith(LOCK_SUFFIX)


def is_hidden(name: str) -> bool:
    """Whether a file or folder of this name can be no object: a temporary, or no valid text."""
    return name.startswith(TEMPORARY_PREFIX) or not _is_text(name)


def _check_name(key: str, name: str) -> None:
    if name in ("", ".", "..") or "\0" in name:
        raise _refused(key, "must be a relative path without '.', '..', NUL or empty parts")
    if is_hidden(name) or len(name.encode()) > _NAME_LIMIT_BYTES:
        raise _refused(key, "has a part that is reserved, not text, or longer than 255 bytes")


def _is_text(name: str) -> bool:
    try:
        name.encode()
    except UnicodeEncodeError:
        return False
    return True


def _refused(key: str, why: str) -> UsageError:
    return UsageError(f"The key {key[:300]!r} {why}.", do="Use a plain relative name.")
