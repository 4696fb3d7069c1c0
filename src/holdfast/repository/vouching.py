"""Signed records: what an attempt starts from, how it ended, and what a tag means.

A signature stands within the record, so one is never there without the other. It covers repository, run
and what the record says; copied to another place it counts for nothing. An old one that is put back counts.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Sequence
from contextlib import suppress
from typing import TYPE_CHECKING, TypeVar

import msgspec

from holdfast.domain.lineage import Attempt, trusted_part
from holdfast.errors import DamagedError, SignatureError
from holdfast.repository import records
from holdfast.repository.records import BaseRecord, EndRecord, TagRecord
from holdfast.repository.signatures import (
    SIGNED_BY,
    author,
    made_signature,
    own_signer,
    told_of,
    trusted_signers,
)

if TYPE_CHECKING:
    from holdfast.repository.run import Run

Statement = TypeVar("Statement", BaseRecord, EndRecord, TagRecord)
Said = BaseRecord | EndRecord | TagRecord


def vouched(run: Run, record: Statement) -> Statement:
    """The record, signed if a key is given."""
    made = made_signature(_message(run, record))
    return record if made is None else msgspec.structs.replace(record, signed=made)


def is_vouched(run: Run, record: Said, trusted: Collection[str] | None = None) -> bool:
    """Whether one of these signed it; by default of those who have to have, if anybody has to."""
    if trusted is None:
        trusted = trusted_signers()
        if not trusted:
            return True
    return _signer(run, record) in trusted


def _signer(run: Run, record: Said) -> str | None:
    """Public key of who signed it; None without a signature that is right."""
    signed = record.signed
    return author(signed, _message(run, record)) if isinstance(signed, records.SignatureRecord) else None


def require_vouched(run: Run, tag: TagRecord) -> None:
    """Refuse a tag that nobody trusted set.

    Raises
    ------
    SignatureError
    """
    if not is_vouched(run, tag):
        raise SignatureError(
            f"The tag {tag.tag!r} of {run.name} is not signed by who is trusted here.",
            do="Name the checkpoint by its step, or set the tag again with the signing key.",
        )


def counting(run: Run, attempts: Sequence[Attempt], *, any_saved: bool) -> list[Attempt]:
    """Attempts that decide where the run goes on from: those up to the highest trusted one.

    Raises
    ------
    SignatureError
        There are checkpoints, and launches, but nobody who is trusted signed what any starts from.
    """
    found = trusted_part(attempts)
    if not found and any_saved and any(a.based for a in attempts):
        raise SignatureError(
            f"Nobody who is trusted here signed what any launch of {run.name} starts from.",
            do=f"Correct {SIGNED_BY}; or launch it once with the signing key and without that.",
        )
    return found


def passed_over(attempts: Sequence[Attempt]) -> list[Attempt]:
    """Those that do not count because nobody who is trusted signed what they start from."""
    return [a for a in attempts[len(trusted_part(attempts)) :] if a.based]


def unsigned(run: Run, trusted: Collection[str]) -> Iterator[str]:
    """A sentence for each record of a run that none of these has signed."""
    for what, record in _statements(run):
        if record is not None and (found := _signer(run, record)) not in trusted:
            yield f"{what} {told_of(found)}."


def _statements(run: Run) -> Iterator[tuple[str, Said | None]]:
    """Tags, and where launches start and how they ended, each with its name."""
    for name in run.tags():
        tag = records.read_or_none(run.storage, run.layout.tag(name), TagRecord)
        yield f"The tag {name!r} of {run.name}", tag
    ends = run.ends()
    for attempt in run.attempts():
        base = records.read_or_none(run.storage, run.layout.base(attempt.id), BaseRecord)
        yield f"What attempt {attempt.id} of {run.name} starts from", base
        yield f"How attempt {attempt.id} of {run.name} ended", ends.get(attempt.id)


def carried(source: Run, record: Statement, run: Run, new: Statement) -> Statement:
    """A record that is taken over from another run or repository.

    With the signature that it has where that counts there, too; signed anew if it was signed by the key that
    is given, or by who is trusted; else without one.
    """
    if _message(source, record) == _message(run, new):
        return msgspec.structs.replace(new, signed=record.signed)
    own = own_signer()
    known = bool(own) and is_vouched(source, record, trusted_signers() | own)
    return vouched(run, new) if known else msgspec.structs.replace(new, signed=msgspec.UNSET)


def carried_bytes(source: Run, key: str, data: bytes, run: Run) -> bytes:
    """The file of a record, taken over; what is no such record, or damaged, stays as it is."""
    with suppress(DamagedError):
        if key.startswith(source.layout.tags):
            return _carried_file(source, records.decode(data, key, TagRecord), run, data)
        if key.endswith(".base"):
            return _carried_file(source, records.decode(data, key, BaseRecord), run, data)
        if key.endswith(".end"):
            return _carried_file(source, records.decode(data, key, EndRecord), run, data)
    return data


def _carried_file(source: Run, record: Statement, run: Run, data: bytes) -> bytes:
    return data if record.signed is msgspec.UNSET else records.encode(carried(source, record, run, record))


def _message(run: Run, record: Said) -> bytes:
    kind, *said = _said(record)
    return "\0".join((kind, run.repository.id, run.name, *said)).encode()


def _said(record: Said) -> tuple[str, ...]:
    """Its kind, and what it says; last what may hold any character."""
    if isinstance(record, BaseRecord):
        return "holdfast base 1", record.attempt, record.checkpoint or ""
    if isinstance(record, TagRecord):
        return "holdfast tag 1", record.tag, record.checkpoint
    return "holdfast end 1", record.attempt, str(record.step), "done" if record.done else "", record.cause
