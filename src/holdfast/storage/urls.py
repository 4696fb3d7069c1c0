"""The wiring: what people type as a place, to the storage that it means."""

from __future__ import annotations

import os
import re
import threading
from pathlib import Path
from typing import TYPE_CHECKING
from urllib.parse import parse_qsl, unquote, urlsplit

from holdfast.errors import NotFoundError, UsageError
from holdfast.storage.buckets import SCHEMES, check_bucket, open_bucket

if TYPE_CHECKING:
    from holdfast.storage.base import Storage

_SCHEME = re.compile(r"([A-Za-z][A-Za-z0-9+.-]+)://")  # two letters at least: 'C:' is a drive
_PLACES = "Give a folder such as './checkpoints', or a URL such as 's3://bucket/prefix'."
_memories: dict[str, Storage] = {}
_naming = threading.Lock()


def open_storage(place: str | os.PathLike[str], *, create: bool = False) -> Storage:
    """Find the storage that a path or URL names.

    Parameters
    ----------
    place : str or path
        A folder, ``file:///...``, an object store (``s3://bucket/prefix``, ``gs://``, ``az://``), or
        ``memory://name``, which lives in this process only.
    create : bool
        Create the folder if it is absent.

    Raises
    ------
    UsageError
        The URL is of a kind that this version does not know.
    NotFoundError
        There is no such folder, and ``create`` is false.
    """
    if not isinstance(place, str | os.PathLike):
        raise UsageError(f"{place!r} is no place for a repository.", do=_PLACES)
    folder = folder_of(place)
    if folder is not None:
        return _folder(folder, create=create)
    scheme, _, rest = str(place).partition("://")
    scheme = scheme.lower()
    if scheme == "memory":
        return _memory(rest)
    if scheme in SCHEMES:
        return open_bucket(str(place))
    raise _unknown(scheme)


def check_shared(place: str) -> None:
    """Refuse what can be no place that other processes reach; nothing is looked up or asked.

    Raises
    ------
    UsageError
        As from `open_storage`.
    """
    if folder_of(place) is not None:
        return
    scheme = place.partition("://")[0].lower()
    if scheme == "memory":
        raise UsageError(f"{place} lives in one process only.", do=_PLACES)
    if scheme not in SCHEMES:
        raise _unknown(scheme)
    check_bucket(place)


def _unknown(scheme: str) -> UsageError:
    """Without the URL: there may be secrets in it."""
    return UsageError(f"This version knows no {scheme}:// storage.", do=_PLACES)


def folder_of(place: str | os.PathLike[str]) -> Path | None:
    """The folder that a path or ``file:///...`` means, whether or not it is there; None for any other URL."""
    found = _SCHEME.match(place) if isinstance(place, str) else None
    if found is None:
        return Path(place).expanduser()
    return _path_of(str(place)) if found[1].lower() == "file" else None


def is_same_place(one: str, other: str) -> bool:
    """Whether both name one place, however each is spelled."""
    return _spelled_out(one) == _spelled_out(other)


def _spelled_out(place: str) -> str:
    folder = folder_of(place)
    if folder is not None:
        return os.path.realpath(folder)
    url, _, options = place.partition("?")
    return f"{url.rstrip('/')} {dict(parse_qsl(options)).get('endpoint', '')}"


def _path_of(url: str) -> Path:
    parts = urlsplit(url)
    if parts.netloc not in ("", "localhost") or parts.query or parts.fragment or not parts.path:
        raise UsageError("A file:// URL of another machine, or without a path, is no folder.", do=_PLACES)
    return Path(unquote(parts.path))


def _folder(path: Path, *, create: bool) -> Storage:
    from holdfast.storage.faults import told_plainly
    from holdfast.storage.local import LocalStorage

    if "\0" in str(path):
        raise UsageError("A path cannot hold a NUL byte.", do=_PLACES)
    with told_plainly("looking up the folder", str(path.absolute())):
        is_there, is_folder = path.exists(), path.is_dir()
    if is_there and not is_folder:
        raise UsageError(f"{path} is a file, not a folder.", do=_PLACES)
    if not create and not is_there:
        raise NotFoundError(
            f"There is no repository at {path.absolute()}.",
            do="Check the path; training with a Checkpointer, or 'holdfast init', creates one.",
        )
    return LocalStorage(path, create=create)


def _memory(name: str) -> Storage:
    from holdfast.storage.memory import MemoryStorage

    if not re.fullmatch(r"[A-Za-z0-9_.-]+", name):
        raise UsageError(f"memory://{name} needs a plain name.", do="Write for example 'memory://test'.")
    with _naming:
        return _memories.setdefault(name, MemoryStorage())


def chosen_place(place: str | os.PathLike[str] | None) -> str | os.PathLike[str]:
    """The repository meant where ``place`` is None: ``$HOLDFAST_REPOSITORY``, else ``./checkpoints``."""
    return place if place is not None else os.environ.get("HOLDFAST_REPOSITORY") or "./checkpoints"


def shared_place(storage: Storage) -> str | None:
    """Where another process of this machine finds the very same storage; None if it lives in this one."""
    from holdfast.storage.memory import MemoryStorage
    from holdfast.storage.sealed import at_rest

    return None if isinstance(at_rest(storage), MemoryStorage) else storage.location
