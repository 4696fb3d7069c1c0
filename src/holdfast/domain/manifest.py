"""The manifest: a checkpoint's table of contents, and its exact bytes (docs/format.md).

Layout: a fixed header, then three MessagePack sections. The summary comes first, with a
digest of its own, so that listing reads a few hundred bytes and never the tensor table.
"""

from __future__ import annotations

import struct
from math import prod
from typing import Any, TypeVar

import blake3
import msgspec

from holdfast.domain.names import AttemptId, CheckpointId
from holdfast.domain.progress import Progress
from holdfast.domain.tensors import DIGEST_BYTES, ITEM_BYTES, TensorSpec
from holdfast.errors import DamagedError, FormatError

T = TypeVar("T")

MAGIC = b"HFMANI\x00\x01"
FORMAT_VERSION = 1
HEADER = struct.Struct("<8sQQQ32s")
MAX_MANIFEST_BYTES = 1 << 30
SUMMARY_READ_BYTES = 8192
"""One read of this many bytes holds header and summary of nearly every manifest."""


class Summary(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """What listings show of a checkpoint.

    Attributes
    ----------
    repository : str
        Id of the repository it was written to.
    attempt, sequence, kind
        As in `CheckpointId`.
    progress : Progress
        Where training stood.
    parent : str or None
        Full name of the checkpoint it descends from directly.
    saved_seconds : float
        Wall clock (Unix time) of the writer; never decides an order.
    reason : str
        Why it was saved, in words.
    metrics : dict[str, float]
        What ``step()`` and ``report()`` attached.
    size_bytes : int
        Bytes of all its tensors.
    tensors : int
        Number of its tensors.
    done : bool
        Whether the run had finished.
    monitor : str or None
        The metric that decides what is best, and how: ``val_loss min``.
    """

    repository: str
    attempt: AttemptId
    sequence: int
    kind: str
    progress: Progress
    parent: str | None
    saved_seconds: float
    reason: str
    metrics: dict[str, float]
    size_bytes: int
    tensors: int
    done: bool = False
    monitor: str | None = None


class Details(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Everything of a checkpoint that is neither summary nor tensor table.

    Attributes
    ----------
    tree : Node
        The state tree, from `domain.tree.encode`.
    training : Node
        Holdfast's own part of the state: RNGs, data position.
    given : dict
        Values the script constructed (nodes), and its ``config`` under ``config.``.
    environment : dict[str, dict[str, str]]
        ``versions``, ``devices`` and ``flags`` of the writer.
    """

    tree: Any
    training: Any
    given: dict[str, Any]
    environment: dict[str, dict[str, str]]


class Shard(msgspec.Struct, frozen=True, gc=False, array_like=True, forbid_unknown_fields=True):
    """A rectangular region of a tensor and the digests of its chunks.

    Attributes
    ----------
    offsets, sizes : tuple[int, ...]
        The region; for an undivided tensor all zeros and the shape.
    chunks : bytes
        Digests of its chunks, 32 bytes each, in order.
    """

    offsets: tuple[int, ...]
    sizes: tuple[int, ...]
    chunks: bytes


class TensorEntry(msgspec.Struct, frozen=True, gc=False, array_like=True, forbid_unknown_fields=True):
    """One tensor of a checkpoint."""

    dtype: str
    shape: tuple[int, ...]
    shards: tuple[Shard, ...]

    @property
    def spec(self) -> TensorSpec:
        return TensorSpec(self.dtype, self.shape)


class Manifest(msgspec.Struct, frozen=True):
    """A checkpoint's whole table of contents."""

    summary: Summary
    details: Details
    chunk_bytes: int
    tensors: dict[str, TensorEntry]

    def digests(self) -> set[bytes]:
        """Every chunk that it references."""
        return _digests(self.tensors)

    def specs(self) -> dict[str, TensorSpec]:
        return {name: entry.spec for name, entry in self.tensors.items()}


class _Table(msgspec.Struct, frozen=True, array_like=True, forbid_unknown_fields=True):
    chunk_bytes: int
    tensors: dict[str, TensorEntry]


class Needs(msgspec.Struct, frozen=True):
    """What a checkpoint needs, and whose it is: all that marking asks of a manifest."""

    summary: Summary
    digests: set[bytes]


def _digests(tensors: dict[str, TensorEntry]) -> set[bytes]:
    found: set[bytes] = set()
    for entry in tensors.values():
        for shard in entry.shards:
            if len(shard.chunks) == DIGEST_BYTES:  # of most tensors, and a repository has millions
                found.add(shard.chunks)
            else:
                found.update(split_digests(shard.chunks))
    return found


def split_digests(chunks: bytes) -> list[bytes]:
    """Digests that a shard's ``chunks`` joins."""
    return [chunks[i : i + DIGEST_BYTES] for i in range(0, len(chunks), DIGEST_BYTES)]


def chunk_sizes(size_bytes: int, chunk_bytes: int) -> list[int]:
    """Bytes of each chunk of a shard: all ``chunk_bytes`` but the last; none for an empty one."""
    whole, rest = divmod(size_bytes, chunk_bytes)
    return [chunk_bytes] * whole + ([rest] if rest else [])


def encode_manifest(manifest: Manifest) -> tuple[CheckpointId, bytes]:
    """Bytes of a manifest, and the identity that they give the checkpoint."""
    summary = msgspec.msgpack.encode(manifest.summary)
    details = msgspec.msgpack.encode(manifest.details)
    table = msgspec.msgpack.encode(_Table(manifest.chunk_bytes, manifest.tensors))
    check = blake3.blake3(summary).digest()
    header = HEADER.pack(MAGIC, len(summary), len(details), len(table), check)
    data = b"".join((header, summary, details, table))
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
    _, summary_len, _, _, check = _header(data, checkpoint)
    section = data[HEADER.size : HEADER.size + summary_len]
    if len(section) != summary_len or blake3.blake3(section).digest() != check:
        raise _damaged(checkpoint, "its summary does not match its digest")
    summary = _decode(section, Summary, checkpoint)
    if not _belongs(summary, checkpoint):
        raise _damaged(checkpoint, "its summary is another checkpoint's")
    return summary


def summary_bytes(data: bytes, checkpoint: CheckpointId) -> int:
    """Bytes from the start of a manifest to the end of its summary."""
    return HEADER.size + int(_header(data, checkpoint)[1])


def decode_manifest(data: bytes, checkpoint: CheckpointId) -> Manifest:
    """Read and verify a whole manifest.

    Raises
    ------
    DamagedError
        Its bytes do not match the digest in its name, or do not parse.
    FormatError
        It was written by a newer version.
    """
    summary, details, table = _sections(data, checkpoint)
    decoded = _table(table, checkpoint)
    whole = _decode(details, Details, checkpoint)
    return Manifest(summary, whole, decoded.chunk_bytes, decoded.tensors)


def decode_needs(data: bytes, checkpoint: CheckpointId) -> Needs:
    """Read and verify a whole manifest as `decode_manifest` does, but leave its tree undecoded."""
    summary, _, table = _sections(data, checkpoint)
    return Needs(summary, _digests(_table(table, checkpoint).tensors))


def _sections(data: bytes, checkpoint: CheckpointId) -> tuple[Summary, bytes, bytes]:
    """Summary, and bytes of details and table, verified."""
    # Before anything else: a flipped version byte is damage, not a newer format.
    if blake3.blake3(data).hexdigest() != checkpoint.digest:
        raise _damaged(checkpoint, "its bytes do not match the digest in its name")
    _, summary_len, details_len, table_len, _ = _header(data, checkpoint)
    if HEADER.size + summary_len + details_len + table_len != len(data):
        raise _damaged(checkpoint, "its sections do not add up to its size")
    summary = decode_summary(data, checkpoint)
    start = HEADER.size + summary_len
    return summary, data[start : start + details_len], data[start + details_len :]


def _header(data: bytes, checkpoint: CheckpointId) -> tuple[bytes, int, int, int, bytes]:
    if len(data) < HEADER.size:
        raise _damaged(checkpoint, "it is shorter than a header")
    magic, *rest = HEADER.unpack_from(data)
    if magic[:7] == MAGIC[:7] and magic[7] > MAGIC[7]:
        raise FormatError(f"{checkpoint} was written by a newer version.", do="Upgrade holdfast.")
    if magic != MAGIC or sum(rest[:3]) > MAX_MANIFEST_BYTES:
        raise _damaged(checkpoint, "its header is not a manifest's")
    return magic, rest[0], rest[1], rest[2], rest[3]


def _decode(section: bytes, kind: type[T], checkpoint: CheckpointId) -> T:
    try:
        return msgspec.msgpack.decode(section, type=kind)
    except (msgspec.DecodeError, ValueError, RecursionError) as error:
        part = kind.__name__.strip("_").lower()
        raise _damaged(checkpoint, f"its {part} does not parse ({error})") from error


def _belongs(summary: Summary, checkpoint: CheckpointId) -> bool:
    named = (checkpoint.step, checkpoint.attempt, checkpoint.sequence, checkpoint.kind)
    return named == (summary.progress.step, summary.attempt, summary.sequence, summary.kind)


def _table(section: bytes, checkpoint: CheckpointId) -> _Table:
    table = _decode(section, _Table, checkpoint)
    if not 0 < table.chunk_bytes <= 1 << 30:
        raise _damaged(checkpoint, "its chunk size is out of bounds")
    for name, entry in table.tensors.items():
        if problem := _entry_problem(entry, table.chunk_bytes):
            raise _damaged(checkpoint, f"its tensor {name!r} {problem}")
    return table


def _entry_problem(entry: TensorEntry, chunk_bytes: int) -> str | None:
    if entry.dtype not in ITEM_BYTES:
        return f"has the unknown dtype {entry.dtype!r}"
    if (entry.shape and min(entry.shape) < 0) or len(entry.shape) > 64:
        return "has an impossible shape"
    for shard in entry.shards:
        if not _is_inside(shard, entry.shape):
            return "has a shard outside its shape"
        size_bytes = ITEM_BYTES[entry.dtype] * prod(shard.sizes)
        if len(shard.chunks) != DIGEST_BYTES * -(-size_bytes // chunk_bytes):
            return "has the wrong number of chunks"
    return None


def _is_inside(shard: Shard, shape: tuple[int, ...]) -> bool:
    if len(shard.offsets) != len(shape):
        return False
    if shard.sizes == shape:
        return not any(shard.offsets)
    return len(shard.sizes) == len(shape) and all(
        o >= 0 and n >= 0 and o + n <= whole
        for o, n, whole in zip(shard.offsets, shard.sizes, shape, strict=True)
    )


def _damaged(checkpoint: CheckpointId, why: str) -> DamagedError:
    return DamagedError(f"The manifest of step {checkpoint.step} ({checkpoint}) is damaged: {why}.")
