"""A storage around any other: what rests there is encrypted and authenticated, names and sizes apart.

Open to everybody are only `holdfast.json` and `keys/`, by which the secret is had. What does not open
is `DamagedError`, like bytes that do not match their digest: with the right secret, and no other is
ever used here, it was changed, cut short, swapped or moved.
"""

from __future__ import annotations

import threading
from collections.abc import Iterable, Iterator
from contextlib import AbstractContextManager
from typing import TYPE_CHECKING

import msgspec
import numpy as np

from holdfast.errors import DamagedError
from holdfast.storage.base import ObjectStat
from holdfast.storage.direct import BOUNCE_BYTES, Bounces
from holdfast.storage.frames import (
    FRAME_BYTES,
    HEADER_BYTES,
    LEAST_BYTES,
    Frame,
    ObjectCipher,
    TamperedError,
    first_position,
    frame_of,
    frames_in,
    new_header,
    plain_bytes,
    sealed_parts,
    size_of,
)
from holdfast.storage.keys import check_key

if TYPE_CHECKING:
    import numpy.typing as npt

    from holdfast.storage.base import Buffer, Storage

OPEN_PREFIXES = ("holdfast.json", "keys/")
_CIPHERS = 256
_AT_ONCE = BOUNCE_BYTES // FRAME_BYTES


class SealedStorage:
    """Objects of another storage, sealed; as safe from threads and processes as that is.

    Parameters
    ----------
    inner : Storage
    secret : bytes
        32 random bytes, of this repository alone.
    repository_id : str
    """

    def __init__(self, inner: Storage, secret: bytes, repository_id: str) -> None:
        self.inner = inner
        self._secret = secret
        self._repository_id = repository_id
        self._bounces = Bounces()
        self._ciphers: dict[str, ObjectCipher] = {}
        self._lock = threading.Lock()

    def __repr__(self) -> str:
        return f"<SealedStorage {self.location}>"

    @property
    def location(self) -> str:
        return self.inner.location

    # Writing.

    def put(self, key: str, parts: Iterable[Buffer]) -> None:
        check_key(key)
        self._forget(key)
        self.inner.put(key, parts if _is_open(key) else self._sealed(key, parts))

    def put_if_absent(self, key: str, data: bytes) -> bool:
        check_key(key)
        sealed = data if _is_open(key) else b"".join(bytes(part) for part in self._sealed(key, [data]))
        return self.inner.put_if_absent(key, sealed)

    def _sealed(self, key: str, parts: Iterable[Buffer]) -> Iterator[Buffer]:
        header = new_header()
        return sealed_parts(self._cipher(key, header), header, parts)

    def delete(self, key: str) -> None:
        self._forget(key)
        self.inner.delete(key)

    # Reading.

    def get(self, key: str, start: int = 0, stop: int | None = None) -> bytes:
        if _is_open(key):
            return self.inner.get(key, start, stop)
        if stop is not None and stop <= start:
            return self.inner.get(key, 0, 0)
        first = frame_of(start)
        end = None if stop is None else (frame_of(stop - 1) + 1) * FRAME_BYTES
        sealed = self.inner.get(key, first * FRAME_BYTES, end)
        complete = end is None or len(sealed) < end - first * FRAME_BYTES
        with self._telling(key):
            cipher = self._cipher_for(key, first, sealed[:HEADER_BYTES])
            frames = frames_in(memoryview(sealed), first, complete=complete)
            plain = b"".join(cipher.open(frame) for frame in _present(frames, first, len(sealed)))
        skip = start - first_position(first)
        return plain[skip : None if stop is None else skip + stop - start]

    def read_into(self, key: str, start: int, buffer: npt.NDArray[np.uint8]) -> int:
        if _is_open(key):
            return self.inner.read_into(key, start, buffer)
        scratch = self._bounces.take()
        try:
            return self._read_into(key, start, buffer, scratch)
        finally:
            self._bounces.give_back(scratch)

    def _read_into(
        self, key: str, start: int, buffer: npt.NDArray[np.uint8], scratch: npt.NDArray[np.uint8]
    ) -> int:
        """Some frames at a time by way of ``scratch``."""
        done = 0
        end = frame_of(start + len(buffer) - 1) + 1 if len(buffer) else frame_of(start)
        for first in range(frame_of(start), end, _AT_ONCE):
            wanted = scratch[: min(end - first, _AT_ONCE) * FRAME_BYTES]
            got = self.inner.read_into(key, first * FRAME_BYTES, wanted)
            complete = got < len(wanted)
            with self._telling(key):
                cipher = self._cipher_for(key, first, wanted[: min(got, HEADER_BYTES)].tobytes())
                frames = frames_in(wanted[:got].data, first, complete=complete)
                for frame in _present(frames, first, got):
                    done = _placed(cipher, frame, buffer, start)
            if complete:
                break
        return max(done, 0)

    def _cipher_for(self, key: str, first: int, beginning: bytes) -> ObjectCipher:
        """By the header, which comes along with the first frame; else it is read once and remembered.

        Only packs and large manifests are read from the middle, and under a name there is only ever
        one of them: for what may be replaced the two would not fit together.
        """
        if first == 0:
            return self._cipher(key, beginning)
        with self._lock:
            cipher = self._ciphers.get(key)
        if cipher is None:
            cipher = self._cipher(key, self.inner.get(key, 0, HEADER_BYTES))
            with self._lock:
                if len(self._ciphers) >= _CIPHERS:
                    self._ciphers.clear()
                self._ciphers[key] = cipher
        return cipher

    def _cipher(self, key: str, header: bytes) -> ObjectCipher:
        return ObjectCipher(self._secret, self._repository_id, key, header)

    def _forget(self, key: str) -> None:
        with self._lock:
            self._ciphers.pop(key, None)

    def _telling(self, key: str) -> _Telling:
        return _Telling(self, key)

    def list(self, prefix: str, start_after: str = "") -> Iterator[str]:
        return self.inner.list(prefix, start_after)

    def stat(self, key: str) -> ObjectStat | None:
        found = self.inner.stat(key)
        if found is None or _is_open(key):
            return found
        return msgspec.structs.replace(found, size_bytes=plain_bytes(found.size_bytes))

    # The place itself.

    def now_seconds(self) -> float:
        return self.inner.now_seconds()

    def free_bytes(self) -> int | None:
        return self.inner.free_bytes()

    def lock(self, name: str, *, shared: bool, wait_seconds: float) -> AbstractContextManager[bool]:
        return self.inner.lock(name, shared=shared, wait_seconds=wait_seconds)

    @property
    def exclusive_locks(self) -> bool:
        return self.inner.exclusive_locks

    @property
    def sends_whole(self) -> bool:
        return False  # what is sent is made frame by frame


class _Telling:
    """Says of which object it was that a frame does not open."""

    def __init__(self, storage: SealedStorage, key: str) -> None:
        self._storage = storage
        self._key = key

    def __enter__(self) -> None:
        pass

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: object) -> None:
        if isinstance(error, TamperedError):
            self._storage._forget(self._key)
            raise DamagedError(
                f"{self._key} in {self._storage.location} does not unseal: "
                "it was changed, cut short or swapped."
            ) from None


def at_rest(storage: Storage) -> Storage:
    """The storage in which the bytes lie as they are, sealed or not."""
    return storage.inner if isinstance(storage, SealedStorage) else storage


def _is_open(key: str) -> bool:
    return key.startswith(OPEN_PREFIXES)


def _present(frames: Iterator[Frame], first: int, sealed_bytes: int) -> Iterator[Frame]:
    """The frames; an object that has not even a first one is none."""
    if first == 0 and sealed_bytes < LEAST_BYTES:
        raise TamperedError
    return frames


def _placed(cipher: ObjectCipher, frame: Frame, buffer: npt.NDArray[np.uint8], start: int) -> int:
    """Open a frame into its place in ``buffer``, which begins at ``start``; return where it ends there."""
    at = first_position(frame.number) - start
    end = at + size_of(frame)
    if at >= 0 and end <= len(buffer):
        cipher.open_into(frame, buffer[at:end].data)
        return end
    plain = np.frombuffer(cipher.open(frame), np.uint8)
    low, high = max(at, 0), min(end, len(buffer))
    if low < high:
        np.copyto(buffer[low:high], plain[low - at : high - at])
    return high
