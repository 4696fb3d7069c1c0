"""The small JSON records of a repository: written once, each with a digest of its own.

A flipped digit in a base or in ``holdfast.json`` would still parse, and cost a run its
lineage; so a file is ``{"record": {...}, "blake3": "digest of the record's bytes"}``.
"""

from __future__ import annotations

from typing import TypeVar

import blake3
import msgspec

from holdfast.errors import DamagedError, NotFoundError
from holdfast.storage.base import Storage

FORMAT_VERSION = 1
SEALED_FORMAT_VERSION = 2
"""Of a sealed repository: who knows nothing of these must not take one for damaged."""
MAX_RECORD_BYTES = 1 << 20
_DO = "'holdfast repair' says what can be mended."
T = TypeVar("T")


class Sealing(msgspec.Struct, frozen=True):
    """How a repository is sealed, and by which secret: ``secret`` tells it from others, and nothing of it."""

    scheme: str
    secret: str


class RepositoryConfig(msgspec.Struct, frozen=True, omit_defaults=True):
    """``holdfast.json``: what every reader must know first."""

    format: int
    id: str
    chunk_bytes: int
    sealed: Sealing | None = None


class AttemptRecord(msgspec.Struct, frozen=True):
    """A launch: who and when. Identity is repeated from the name."""

    attempt: str
    created_seconds: float
    host: str = ""
    pid: int = 0


class SignatureRecord(msgspec.Struct, frozen=True):
    """Who signed, and the signature, both hexadecimal."""

    public: str
    signature: str


Signed = SignatureRecord | msgspec.UnsetType
"""Of a record, within it; left out where nobody signed."""


class BaseRecord(msgspec.Struct, frozen=True):
    """The recovery point an attempt starts from; None for a fresh start."""

    attempt: str
    checkpoint: str | None
    signed: Signed = msgspec.UNSET


class EndRecord(msgspec.Struct, frozen=True):
    """How an attempt ended."""

    attempt: str
    cause: str
    step: int
    ended_seconds: float
    done: bool = False
    signed: Signed = msgspec.UNSET


class RejectedRecord(msgspec.Struct, frozen=True):
    """A checkpoint that two reads found damaged: never a recovery point again."""

    checkpoint: str
    reason: str
    rejected_seconds: float


class CondemnedRecord(msgspec.Struct, frozen=True):
    """Something to be deleted after the grace time; nothing new may rely on it."""

    name: str
    condemned_seconds: float


class TagRecord(msgspec.Struct, frozen=True):
    """A name that people gave a checkpoint."""

    tag: str
    checkpoint: str
    signed: Signed = msgspec.UNSET


class HintRecord(msgspec.Struct, frozen=True):
    """Packs that held a checkpoint's chunks when it was written; deletable, never trusted."""

    packs: list[str]


class RequestRecord(msgspec.Struct, frozen=True):
    """Somebody asks a live run for a checkpoint."""

    nonce: str
    tag: str | None = None


class _Digested(msgspec.Struct, frozen=True):
    record: msgspec.Raw
    blake3: str


def encode(record: msgspec.Struct) -> bytes:
    """Bytes of a record's file."""
    body = msgspec.json.encode(record)
    return msgspec.json.encode(_Digested(msgspec.Raw(body), blake3.blake3(body).hexdigest())) + b"\n"


def read(storage: Storage, key: str, kind: type[T]) -> T:
    """Read a record.

    Raises
    ------
    NotFoundError
    DamagedError
        It does not parse or match its digest, also not when read again.
    """
    try:
        return decode(storage.get(key, 0, MAX_RECORD_BYTES), key, kind)
    except DamagedError:
        return decode(storage.get(key, 0, MAX_RECORD_BYTES), key, kind)


def decode(data: bytes, key: str, kind: type[T]) -> T:
    try:
        found = msgspec.json.decode(data, type=_Digested)
        body = bytes(found.record)
        if blake3.blake3(body).hexdigest() != found.blake3:
            raise DamagedError(f"The record {key} does not match its digest.", do=_DO)
        return msgspec.json.decode(body, type=kind)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise DamagedError(f"The record {key} does not parse: {error}.", do=_DO) from error


def read_or_none(storage: Storage, key: str, kind: type[T]) -> T | None:
    """Read a record; None if it is not there or damaged."""
    try:
        return read(storage, key, kind)
    except (NotFoundError, DamagedError):
        return None
