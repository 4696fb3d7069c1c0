"""The manifest: a checkpoint's table of contents. `manifest_file` has its bytes."""

from __future__ import annotations

from typing import Any

import msgspec

from holdfast.domain.names import AttemptId
from holdfast.domain.progress import Progress
from holdfast.domain.tensors import DIGEST_BYTES, TensorSpec


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


class RankDetails(msgspec.Struct, frozen=True, array_like=True, forbid_unknown_fields=True):
    """As `Details`, of a rank other than 0; None where it is the same as that of rank 0."""

    tree: Any = None
    training: Any = None
    given: dict[str, Any] | None = None


class Manifest(msgspec.Struct, frozen=True):
    """A checkpoint's whole table of contents.

    Attributes
    ----------
    details : Details
        Of rank 0.
    tensors : dict[str, TensorEntry]
        Of all ranks; `domain.ranks` tells whose they are.
    ranks : tuple[RankDetails, ...]
        Of the ranks from 1 on; empty for a training in one process.
    """

    summary: Summary
    details: Details
    chunk_bytes: int
    tensors: dict[str, TensorEntry]
    ranks: tuple[RankDetails, ...] = ()

    def digests(self) -> set[bytes]:
        """Every chunk that it references."""
        return set(split_digests(joined_digests(self.tensors)))

    def specs(self) -> dict[str, TensorSpec]:
        return {name: entry.spec for name, entry in self.tensors.items()}


class Needs(msgspec.Struct, frozen=True):
    """What a checkpoint needs, and whose it is: all that marking asks of a manifest."""

    summary: Summary
    digests: set[bytes]


def joined_digests(tensors: dict[str, TensorEntry]) -> bytes:
    """Digests of all chunks, in the order of the tensors."""
    return b"".join(shard.chunks for entry in tensors.values() for shard in entry.shards)


def split_digests(chunks: bytes) -> list[bytes]:
    """Digests that a shard's ``chunks`` joins."""
    return [chunks[i : i + DIGEST_BYTES] for i in range(0, len(chunks), DIGEST_BYTES)]


def chunk_sizes(size_bytes: int, chunk_bytes: int) -> list[int]:
    """Bytes of each chunk of a shard: all ``chunk_bytes`` but the last; none for an empty one."""
    whole, rest = divmod(size_bytes, chunk_bytes)
    return [chunk_bytes] * whole + ([rest] if rest else [])
