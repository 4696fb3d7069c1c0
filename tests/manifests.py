"""Manifests of any content, all of whose digests are right, in the two versions that there are."""

from __future__ import annotations

from typing import Any

import blake3
import msgspec

from holdfast.domain.compressed import compress
from holdfast.domain.manifest import Details, Manifest, Shard, Summary, TensorEntry, chunk_sizes
from holdfast.domain.manifest_file import FIRST_MAGIC, HEADER, MAGIC
from holdfast.domain.names import AttemptId, CheckpointId
from holdfast.domain.progress import Progress

ATTEMPT = AttemptId(3, "9be1c2d4")
CHUNK = 4096


def summary(step: int = 500, **changes: Any) -> Summary:
    values: dict[str, Any] = {
        "repository": "r",
        "attempt": ATTEMPT,
        "sequence": 2,
        "kind": "full",
        "progress": Progress(step),
        "parent": None,
        "saved_seconds": 1.5,
        "reason": "every 100 steps",
        "metrics": {"loss": float("nan")},
        "size_bytes": 0,
        "tensors": 0,
    }
    return Summary(**{**values, **changes})


def entry(size_bytes: int, dtype: str = "uint8") -> TensorEntry:
    count = len(chunk_sizes(size_bytes, CHUNK))
    digests = b"".join(blake3.blake3(bytes([i % 256])).digest() for i in range(count))
    return TensorEntry(dtype, (size_bytes,), (Shard((0,), (size_bytes,), digests),))


DETAILS = Details(["dict", []], None, {"lr": 0.1}, {"versions": {}})


def manifest(**tensors: TensorEntry) -> Manifest:
    return Manifest(summary(), DETAILS, CHUNK, tensors)


def _named(data: bytes) -> tuple[CheckpointId, bytes]:
    return CheckpointId(500, ATTEMPT, 2, "full", blake3.blake3(data).hexdigest()), data


def _packed(content: Any) -> bytes:
    return content if isinstance(content, bytes) else msgspec.msgpack.encode(content)


def sealed_first(
    table: Any,
    *,
    header: dict[str, Any] | None = None,
    details: Any = DETAILS,
    head: Any = None,
) -> tuple[CheckpointId, bytes]:
    """Of version 1."""
    front = _packed(summary() if head is None else head)
    middle, body = _packed(details), _packed(table)
    sizes = {"magic": FIRST_MAGIC, "summary": len(front), "details": len(middle), "table": len(body)}
    sizes |= header or {}
    return _named(
        b"".join((HEADER.pack(*sizes.values(), blake3.blake3(front).digest()), front, middle, body))
    )


def sealed(
    table: Any,
    digests: bytes = b"",
    *,
    header: dict[str, Any] | None = None,
    details: Any = DETAILS,
    packed: bytes | None = None,
) -> tuple[CheckpointId, bytes]:
    """Of version 2: ``table`` is a chunk size and a map, or anything; ``packed`` stands in its place."""
    raw = _packed([details, *table] if isinstance(table, list) else table)
    packed = compress(raw) if packed is None else packed
    front = _packed(summary())
    sizes = {"magic": MAGIC, "summary": len(front), "packed": len(packed), "raw": len(raw)}
    sizes |= header or {}
    return _named(
        b"".join((HEADER.pack(*sizes.values(), blake3.blake3(front).digest()), front, packed, digests))
    )
