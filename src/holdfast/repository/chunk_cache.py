"""Chunks of a store that is far away, kept on a disk that is near, up to a limit.

A chunk is named by its digest and compared with it whenever it is taken, so a cache can hold nothing
wrong, may be shared by repositories and processes, and may be deleted at any time. What fails
here costs a read of the store, nothing else.
"""

from __future__ import annotations

import os
import secrets
import time
from collections.abc import Iterator, Mapping
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

import blake3

from holdfast.codecs.base import MAX_RAW_BYTES
from holdfast.domain.quantities import parse_bytes
from holdfast.errors import UsageError
from holdfast.storage.base import Storage
from holdfast.storage.sealed import at_rest

if TYPE_CHECKING:
    import numpy as np
    import numpy.typing as npt

    Bytes = npt.NDArray[np.uint8]

VARIABLE, LIMIT_VARIABLE = "HOLDFAST_CACHE", "HOLDFAST_CACHE_LIMIT"
LIMIT_BYTES = 20 * 10**9
LEFT = 0.9
"""How much of the limit stays once something has to go: it need not be looked at for a while."""
_TEMPORARY = ".tmp-"
_TEMPORARY_SECONDS = 3600.0


class _Kept(NamedTuple):
    used_seconds: float
    size_bytes: int
    path: Path


class ChunkCache:
    """Chunks in files of a folder.

    Parameters
    ----------
    folder : Path
        Made when it is needed, for its owner only.
    limit_bytes : int
        The least recently used go when there is more.
    """

    def __init__(self, folder: Path, limit_bytes: int = LIMIT_BYTES) -> None:
        self._folder = folder
        self._limit_bytes = limit_bytes

    def take(self, digest: bytes) -> Bytes | None:
        """The chunk, if it is here and as it should be."""
        import numpy as np

        path = self._path(digest)
        try:
            if path.stat().st_size > MAX_RAW_BYTES:
                return None
            data = path.read_bytes()
            os.utime(path)
        except OSError:
            return None
        if blake3.blake3(data).digest() != digest:
            with suppress(OSError):
                path.unlink()
            return None
        return np.frombuffer(data, np.uint8)

    def keep(self, digest: bytes, chunk: Bytes) -> None:
        """Have it here next time; if the disk refuses, that is all right."""
        path = self._path(digest)
        temporary = path.with_name(f"{_TEMPORARY}{secrets.token_hex(8)}")
        try:
            path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
            temporary.touch(mode=0o600, exist_ok=False)
            temporary.write_bytes(chunk.data)
            temporary.replace(path)
        except OSError:
            with suppress(OSError):
                temporary.unlink()

    def trim(self) -> None:
        """Let the least recently used go while there is more than the limit."""
        kept = sorted(self._scan())
        left_bytes = sum(one.size_bytes for one in kept)
        if left_bytes <= self._limit_bytes:
            return
        for one in kept:
            if left_bytes <= LEFT * self._limit_bytes:
                return
            with suppress(OSError):
                one.path.unlink()
            left_bytes -= one.size_bytes

    def _scan(self) -> Iterator[_Kept]:
        """What is here; what a killed process has left half written goes."""
        old_seconds = time.time() - _TEMPORARY_SECONDS
        for path in self._folder.glob("??/*"):
            with suppress(OSError):
                stat = path.stat()
                if path.name.startswith(_TEMPORARY) and stat.st_mtime < old_seconds:
                    path.unlink()
                else:
                    yield _Kept(stat.st_mtime, stat.st_size, path)

    def _path(self, digest: bytes) -> Path:
        name = digest.hex()
        return self._folder / name[:2] / name


def chosen_cache(storage: Storage, environment: Mapping[str, str]) -> ChunkCache | None:
    """The cache that the environment names, for a repository in an object store that is not sealed.

    Raises
    ------
    UsageError
        Its limit is no number of bytes.
    """
    folder = environment.get(VARIABLE)
    is_sealed = at_rest(storage) is not storage
    if not folder or is_sealed or "://" not in storage.location or storage.location.startswith("memory:"):
        return None
    text = environment.get(LIMIT_VARIABLE)
    limit_bytes = LIMIT_BYTES if text is None else parse_bytes(text)
    if limit_bytes is None:
        raise UsageError(f"{LIMIT_VARIABLE}={text} is no size.", do="Write for example 50GB.")
    return ChunkCache(Path(folder).expanduser().absolute(), limit_bytes)
