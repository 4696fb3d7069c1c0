"""Verified reads of tensors from memory: what a trainer left there, checked like what comes from a disk."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from typing import TYPE_CHECKING, NamedTuple, Protocol, cast

import blake3

from holdfast.domain.manifest import Manifest, chunk_sizes, split_digests
from holdfast.domain.tensors import MovableTarget, TensorTarget
from holdfast.repository.reading import undivided
from holdfast.repository.writing import in_groups

if TYPE_CHECKING:
    import numpy as np
    import numpy.typing as npt

    Bytes = npt.NDArray[np.uint8]

BATCH_BYTES = 8 * 1024 * 1024
"""What a thread takes at a time."""
Wanted = Sequence[tuple[str, TensorTarget]]


class Memory(Protocol):
    """What is in memory of a checkpoint; not trusted."""

    @property
    def tensors(self) -> Mapping[str, Bytes]:
        """Bytes by name of tensor."""
        ...

    def take(self, name: str) -> Bytes | None:
        """The memory of a tensor itself, the caller's for good; None if it is not to be had."""
        ...


def recall_tensors(memory: Memory, manifest: Manifest, wanted: Wanted) -> Wanted:
    """Fill and commit these targets from memory, as far as it holds what the manifest says.

    Tensors that have no memory of their own yet stay where they are, if they may; the others are copied.

    Returns
    -------
    sequence
        The targets that have to be read elsewhere; some of them may have been written to.
    """
    missing = [(name, target) for name, target in wanted if name not in memory.tensors]
    present = [
        _Recall(name, target, memory.tensors[name], _move(memory, name, target))
        for name, target in wanted
        if name in memory.tensors
    ]
    batches = list(in_groups(present, lambda one: len(one.data), BATCH_BYTES))
    with ThreadPoolExecutor(min(os.cpu_count() or 1, max(len(batches), 1))) as pool:
        failed = pool.map(lambda batch: [one for one in batch if not _recalled(one, manifest)], batches)
        return [*missing, *((one.name, one.target) for batch in failed for one in batch)]


class _Recall(NamedTuple):
    """A tensor, what memory holds of it, and what lets it live there; without that it is copied."""

    name: str
    target: TensorTarget
    data: Bytes
    move: Callable[[], None] | None


def _move(memory: Memory, name: str, target: TensorTarget) -> Callable[[], None] | None:
    if not hasattr(target, "live_in"):  # to ask isinstance takes 10 µs for each tensor
        return None
    home = memory.take(name)
    return partial(cast(MovableTarget, target).live_in, home) if home is not None else None


def _recalled(one: _Recall, manifest: Manifest) -> bool:
    """Verify one tensor, and copy it piece by piece: what has just been digested is in the core's cache."""
    import numpy as np

    data, entry = one.data, manifest.tensors[one.name]
    if len(data) != entry.spec.size_bytes:
        return False
    buffer, start = one.target.buffer() if one.move is None else None, 0
    sizes = chunk_sizes(len(data), manifest.chunk_bytes)
    for digest, size in zip(split_digests(undivided(entry)), sizes, strict=True):
        piece = data[start : start + size]
        if blake3.blake3(piece.data).digest() != digest:
            return False
        if buffer is not None:
            np.copyto(buffer[start : start + size], piece)
        start += size
    if one.move is not None:
        one.move()
    one.target.commit()
    return True
