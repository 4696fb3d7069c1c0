"""How a sealed object lies: a header, then frames, each encrypted and authenticated by itself.

``magic | salt | frame 0 | frame 1 | ...`` (docs/format.md). Each object has a key of its own, derived
from the repository's secret, its salt, the repository's id and its own name: so one that was swapped,
renamed or brought from elsewhere does not open. The nonce counts the frames and marks the last one (the
construction is called STREAM), so none can be left out, moved or added.

Every frame but the last ends at a multiple of `FRAME_BYTES`, the header counted as part of the first:
any range of the object is read by whole, aligned blocks. Nothing else about an object is stored.
"""

from __future__ import annotations

import secrets
from collections.abc import Iterable, Iterator
from typing import TYPE_CHECKING, NamedTuple

from holdfast.storage.direct import byte_view

if TYPE_CHECKING:
    from holdfast.storage.base import Buffer

MAGIC = b"HFSEAL\x00\x01"
HEADER_BYTES = 32
TAG_BYTES = 16
FRAME_BYTES = 64 * 1024
LEAST_BYTES = HEADER_BYTES + TAG_BYTES
"""Of a sealed object: what an empty one takes."""
SECRET_BYTES = 32
_DATA_BYTES = FRAME_BYTES - TAG_BYTES
_PURPOSE = b"holdfast object 1\0"


class Frame(NamedTuple):
    """One encrypted piece; ``is_last`` is None where what was read does not tell."""

    number: int
    body: memoryview
    is_last: bool | None


class TamperedError(Exception):
    """A frame is not what was written under this secret, name and place."""


def frame_of(position: int) -> int:
    """The frame that holds the byte at this position of the object's own bytes."""
    return (position + HEADER_BYTES) // _DATA_BYTES


def first_position(number: int) -> int:
    """Where the own bytes of a frame begin."""
    return max(number * _DATA_BYTES - HEADER_BYTES, 0)


def plain_bytes(sealed_bytes: int) -> int:
    """Size of an object by the size of what rests of it; not authenticated, as only reading does that."""
    frames = -(-sealed_bytes // FRAME_BYTES)
    return max(sealed_bytes - HEADER_BYTES - frames * TAG_BYTES, 0)


def new_header() -> bytes:
    return MAGIC + secrets.token_bytes(HEADER_BYTES - len(MAGIC))


def derived(secret: bytes, salt: bytes, purpose: bytes) -> bytes:
    """A key for one purpose, from one that is used for nothing else (HKDF-SHA256)."""
    from cryptography.hazmat.primitives.hashes import SHA256
    from cryptography.hazmat.primitives.kdf.hkdf import HKDF

    return HKDF(SHA256(), SECRET_BYTES, salt, purpose).derive(secret)


class ObjectCipher:
    """Seals and opens the frames of one object.

    Parameters
    ----------
    secret : bytes
        The repository's.
    repository_id, key : str
        Whose object this is, and under which name.
    header : bytes
        From `new_header`, or as it was read.

    Raises
    ------
    TamperedError
        It is no header.
    """

    def __init__(self, secret: bytes, repository_id: str, key: str, header: bytes) -> None:
        from cryptography.hazmat.primitives.ciphers.aead import AESGCM

        if len(header) != HEADER_BYTES or header[: len(MAGIC)] != MAGIC:
            raise TamperedError
        purpose = _PURPOSE + f"{repository_id}\0{key}".encode()
        self._aead = AESGCM(derived(secret, header[len(MAGIC) :], purpose))

    def seal(self, frame: Frame, into: memoryview) -> memoryview:
        """Encrypt the frame's bytes; returns the part of ``into`` that holds them."""
        nonce = _nonce(frame.number, is_last=bool(frame.is_last))
        sealed = into[: len(frame.body) + TAG_BYTES]
        self._aead.encrypt_into(nonce, frame.body, None, sealed)
        return sealed

    def open_into(self, frame: Frame, buffer: memoryview) -> None:
        """Decrypt and check into a buffer of the right size; on an error what is in it means nothing.

        Raises
        ------
        TamperedError
        """
        from cryptography.exceptions import InvalidTag

        for is_last in (False, True) if frame.is_last is None else (frame.is_last,):
            try:
                self._aead.decrypt_into(_nonce(frame.number, is_last=is_last), frame.body, None, buffer)
            except InvalidTag:
                continue
            return
        raise TamperedError

    def open(self, frame: Frame) -> bytearray:
        """Decrypt and check."""
        plain = bytearray(size_of(frame))
        self.open_into(frame, memoryview(plain))
        return plain


def size_of(frame: Frame) -> int:
    """Own bytes of a frame.

    Raises
    ------
    TamperedError
        It is shorter than any.
    """
    size_bytes = len(frame.body) - TAG_BYTES
    if size_bytes < 0 or (size_bytes == 0 and frame.number > 0):
        raise TamperedError
    return size_bytes


def frames_in(sealed: memoryview, first: int, *, complete: bool) -> Iterator[Frame]:
    """Cut what was read, from the beginning of a frame, into frames.

    Parameters
    ----------
    first : int
        Number of the first of them.
    complete : bool
        Whether the object was seen to end there.
    """
    for at in range(0, len(sealed), FRAME_BYTES):
        body = sealed[at : at + FRAME_BYTES]
        number = first + at // FRAME_BYTES
        is_last = (complete or None) if at + FRAME_BYTES >= len(sealed) else False
        yield Frame(number, body[HEADER_BYTES:] if number == 0 else body, is_last)


def sealed_parts(cipher: ObjectCipher, header: bytes, parts: Iterable[Buffer]) -> Iterator[Buffer]:
    """The bytes of a sealed object; each buffer is valid until the next is asked for."""
    yield header
    sealed = memoryview(bytearray(FRAME_BYTES))
    for frame in _cut(parts):
        yield cipher.seal(frame, sealed)


def _cut(parts: Iterable[Buffer]) -> Iterator[Frame]:
    """Frames to be sealed: whether one is the last is known only when more comes, so it waits for that."""
    waiting = memoryview(bytearray(_DATA_BYTES))
    number, start, end = 0, HEADER_BYTES, HEADER_BYTES
    for part in parts:
        view = byte_view(part)
        while len(view):
            if start == end and number and len(view) > _DATA_BYTES:  # no need to wait, nor to copy
                yield Frame(number, view[:_DATA_BYTES], is_last=False)
                number, view = number + 1, view[_DATA_BYTES:]
                continue
            if end == _DATA_BYTES:
                yield Frame(number, waiting[start:end], is_last=False)
                number, start, end = number + 1, 0, 0
                continue
            taken = view[: _DATA_BYTES - end]
            waiting[end : end + len(taken)] = taken
            end, view = end + len(taken), view[len(taken) :]
    yield Frame(number, waiting[start:end], is_last=True)


def _nonce(number: int, *, is_last: bool) -> bytes:
    return number.to_bytes(11, "big") + (b"\1" if is_last else b"\0")
