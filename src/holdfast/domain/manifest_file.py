"""The exact bytes of a manifest (docs/format.md).

A fixed header, then the summary, with a digest of its own, so that listing reads a few hundred bytes
and never the table of tensors; then what `manifest_body` says. Version 2 is written, of several ranks
version 3; version 1 is read as well.
"""

from __future__ import annotations

import struct
from collections.abc import Callable
from typing import NamedTuple, TypeVar

import blake3
import msgspec

from holdfast.domain import manifest_body
from holdfast.domain.manifest import Manifest, Needs, Summary
from holdfast.domain.names import CheckpointId
from holdfast.errors import DamagedError, FormatError

T = TypeVar("T")

MAGIC = b"HFMANI\x00\x02"
RANKS_MAGIC = b"HFMANI\x00\x03"
FIRST_MAGIC = b"HFMANI\x00\x01"
HEADER = struct.Struct("<8sQQQ32s")
MAX_MANIFEST_BYTES = 1 << 30
SUMMARY_READ_BYTES = 8192
"""One read of this many bytes holds header and summary of nearly every manifest."""


class Header(NamedTuple):
    """The fixed front.

    Attributes
    ----------
    summary_bytes : int
    first_bytes, second_bytes : int
        Version 1: of details and table. Later ones: of the packed part, as it stands and decoded.
    check : bytes
        Digest of the summary.
    """

    magic: bytes
    summary_bytes: int
    first_bytes: int
    second_bytes: int
    check: bytes


def encode_manifest(manifest: Manifest) -> tuple[CheckpointId, bytes]:
    """Bytes of a manifest, and the identity that they give the checkpoint."""
    summary = msgspec.msgpack.encode(manifest.summary)
    body = manifest_body.Body(manifest.details, manifest.chunk_bytes, manifest.tensors, manifest.ranks)
    stored = manifest_body.encode(body)
    check = blake3.blake3(summary).digest()
    magic = RANKS_MAGIC if manifest.ranks else MAGIC
    header = HEADER.pack(magic, len(summary), len(stored.packed), stored.raw_bytes, check)
    data = b"".join((header, summary, stored.packed, stored.digests))
    s = manifest.summary
    digest = blake3.blake3(data).hexdigest()
    return CheckpointId(s.progress.step, s.attempt, s.sequence, s.kind, digest), data


def decode_summary(data: bytes, checkpoint: CheckpointId) -> Summary:
    """Read the summary from the first bytes of a manifest.

    Parameters
    ----------
    data : bytes
        At least the header and the summary; `summary_bytes` says how many that is.

    Raises
    ------
    DamagedError, FormatError
    """
    return _summary(data, _header(data, checkpoint), checkpoint)


def summary_bytes(data: bytes, checkpoint: CheckpointId) -> int:
    """Bytes from the start of a manifest to the end of its summary."""
    return HEADER.size + _header(data, checkpoint).summary_bytes


def decode_manifest(data: bytes, checkpoint: CheckpointId) -> Manifest:
    """Read and verify a whole manifest.

    Raises
    ------
    DamagedError
        Its bytes do not match the digest in its name, or do not parse.
    FormatError
        It was written by a newer version.
    """
    header, summary = _verified(data, checkpoint)
    body = _or_damaged(_body, data, header, checkpoint)
    return Manifest(summary, *body)


def decode_needs(data: bytes, checkpoint: CheckpointId) -> Needs:
    """Read and verify a whole manifest as `decode_manifest` does, but decode nothing but digests."""
    header, summary = _verified(data, checkpoint)
    return Needs(summary, _or_damaged(_needs, data, header, checkpoint))


def _body(data: bytes, header: Header) -> manifest_body.Body:
    if header.magic == FIRST_MAGIC:
        return manifest_body.decode_first(*_first_sections(data, header))
    body = manifest_body.decode(_stored(data, header))
    if bool(body.ranks) != (header.magic == RANKS_MAGIC):
        raise ValueError("its version does not fit its ranks")
    return body


def _needs(data: bytes, header: Header) -> set[bytes]:
    if header.magic == FIRST_MAGIC:
        return manifest_body.needs_first(_first_sections(data, header)[1])
    return manifest_body.needs(_stored(data, header))


def _first_sections(data: bytes, header: Header) -> tuple[bytes, bytes]:
    start = HEADER.size + header.summary_bytes
    if start + header.first_bytes + header.second_bytes != len(data):
        raise ValueError("its sections do not add up to its size")
    return data[start : start + header.first_bytes], data[start + header.first_bytes :]


def _stored(data: bytes, header: Header) -> manifest_body.Stored:
    start = HEADER.size + header.summary_bytes
    stop = start + header.first_bytes
    if stop > len(data):
        raise ValueError("it is shorter than its sections")
    return manifest_body.Stored(data[start:stop], header.second_bytes, data[stop:])


def _verified(data: bytes, checkpoint: CheckpointId) -> tuple[Header, Summary]:
    # Before anything else: a flipped version byte is damage, not a newer format.
    if blake3.blake3(data).hexdigest() != checkpoint.digest:
        raise _damaged(checkpoint, "its bytes do not match the digest in its name")
    header = _header(data, checkpoint)
    return header, _summary(data, header, checkpoint)


def _header(data: bytes, checkpoint: CheckpointId) -> Header:
    if len(data) < HEADER.size:
        raise _damaged(checkpoint, "it is shorter than a header")
    header = Header(*HEADER.unpack_from(data))
    if header.magic[:7] == MAGIC[:7] and header.magic[7] > RANKS_MAGIC[7]:
        raise FormatError(f"{checkpoint} was written by a newer version.", do="Upgrade holdfast.")
    sizes = header.summary_bytes + header.first_bytes + header.second_bytes
    if header.magic not in (RANKS_MAGIC, MAGIC, FIRST_MAGIC) or sizes > MAX_MANIFEST_BYTES:
        raise _damaged(checkpoint, "its header is not a manifest's")
    return header


def _summary(data: bytes, header: Header, checkpoint: CheckpointId) -> Summary:
    section = data[HEADER.size : HEADER.size + header.summary_bytes]
    if len(section) != header.summary_bytes or blake3.blake3(section).digest() != header.check:
        raise _damaged(checkpoint, "its summary does not match its digest")
    try:
        summary = msgspec.msgpack.decode(section, type=Summary)
    except (msgspec.DecodeError, ValueError, RecursionError) as error:
        raise _damaged(checkpoint, f"its summary does not parse ({error})") from error
    if not _belongs(summary, checkpoint):
        raise _damaged(checkpoint, "its summary is another checkpoint's")
    return summary


def _belongs(summary: Summary, checkpoint: CheckpointId) -> bool:
    named = (checkpoint.step, checkpoint.attempt, checkpoint.sequence, checkpoint.kind)
    return named == (summary.progress.step, summary.attempt, summary.sequence, summary.kind)


def _or_damaged(
    read: Callable[[bytes, Header], T], data: bytes, header: Header, checkpoint: CheckpointId
) -> T:
    try:
        return read(data, header)
    except ValueError as error:
        raise _damaged(checkpoint, str(error)) from error


def _damaged(checkpoint: CheckpointId, why: str) -> DamagedError:
    return DamagedError(f"The manifest of step {checkpoint.step} ({checkpoint}) is damaged: {why}.")
