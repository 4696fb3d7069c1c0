"""The small JSON records of a repository: strict to read, written once."""

from __future__ import annotations

from typing import TypeVar

import msgspec

from holdfast.errors import DamagedError, NotFoundError
from holdfast.storage.base import Storage

FORMAT_VERSION = 1
MAX_RECORD_BYTES = 1 << 20
T = TypeVar("T")


class RepositoryConfig(msgspec.Struct, frozen=True):
    """``holdfast.json``: what every reader must know first."""

    format: int
    id: str
    chunk_bytes: int


class AttemptRecord(msgspec.Struct, frozen=True):
    """A launch: who and when. Identity is repeated from the name."""

    attempt: str
    created_seconds: float
    host: str = ""
    pid: int = 0


class BaseRecord(msgspec.Struct, frozen=True):
    """The recovery point an attempt starts from; None for a fresh start."""

    attempt: str
    checkpoint: str | None


class EndRecord(msgspec.Struct, frozen=True):
    """How an attempt ended."""

    attempt: str
    cause: str
    step: int
    ended_seconds: float
    done: bool = False


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


class HintRecord(msgspec.Struct, frozen=True):
    """Packs that held a checkpoint's chunks when it was written; deletable, never trusted."""

    packs: list[str]


class RequestRecord(msgspec.Struct, frozen=True):
    """Somebody asks a live run for a checkpoint."""

    nonce: str
    tag: str | None = None


def encode(record: msgspec.Struct) -> bytes:
    return msgspec.json.format(msgspec.json.encode(record), indent=1) + b"\n"


def read(storage: Storage, key: str, kind: type[T]) -> T:
    """Read a record.

    Raises
    ------
    NotFoundError
    DamagedError
        It does not parse, also not when read again.
    """
    for last in (False, True):
        try:
            return msgspec.json.decode(storage.get(key, 0, MAX_RECORD_BYTES), type=kind)
        except (msgspec.DecodeError, UnicodeDecodeError) as error:
            if last:
                raise DamagedError(f"The record {key} does not parse: {error}.") from error
    raise AssertionError  # unreachable: the second turn returns or raises


def read_or_none(storage: Storage, key: str, kind: type[T]) -> T | None:
    """Read a record; None if it is not there or damaged."""
    try:
        return read(storage, key, kind)
    except (NotFoundError, DamagedError):
        return None
