"""Verified reads of tensors from memory: what a trainer left there, checked like what comes from a disk."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING

import blake3

from holdfast.domain.manifest import Manifest, chunk_sizes, split_digests
from holdfast.domain.tensors import TensorTarget
from holdfast.repository.reading import undivided

if TYPE_CHECKING:
    import numpy as np
    import numpy.typing as npt

    Bytes = npt.NDArray[np.uint8]

BATCH_BYTES = 8 * 1024 * 1024
"""What a thread takes at a time."""
Wanted = Sequence[tuple[str, TensorTarget]]


def recall_tensors(held: Mapping[str, Bytes], manifest: Manifest, wanted: Wanted) -> Wanted:
    """Fill and commit these targets from memory, as far as it holds what the manifest says.

    Parameters
    ----------
    held : mapping
        Bytes by name of tensor; not trusted.

    Returns
    -------
    sequence
        The targets that have to be read elsewhere; some of them may have been written to.
    """
    missing = [(name, target) for name, target in wanted if name not in held]
    present = [(name, target) for name, target in wanted if name in held]
    batches = _batched(present, held)
    with ThreadPoolExecutor(min(os.cpu_count() or 1, max(len(batches), 1))) as pool:
        failed = pool.map(
            lambda batch: [one for one in batch if not _recalled(held, manifest, *one)], batches
        )
        return [*missing, *(one for batch in failed for one in batch)]


def _batched(present: Wanted, held: Mapping[str, Bytes]) -> list[list[tuple[str, TensorTarget]]]:
    batches: list[list[tuple[str, TensorTarget]]] = [[]]
    room_bytes = BATCH_BYTES
    for name, target in present:
        if room_bytes <= 0:
            batches.append([])
            room_bytes = BATCH_BYTES
        batches[-1].append((name, target))
        room_bytes -= len(held[name])
    return batches


def _recalled(held: Mapping[str, Bytes], manifest: Manifest, name: str, target: TensorTarget) -> bool:
    """Copy one tensor piece by piece: each is in the core's cache when it has been digested."""
    import numpy as np

    data, entry = held[name], manifest.tensors[name]
    if len(data) != entry.spec.size_bytes:
        return False
    buffer, start = target.buffer(), 0
    sizes = chunk_sizes(len(data), manifest.chunk_bytes)
    for digest, size in zip(split_digests(undivided(entry)), sizes, strict=True):
        piece = data[start : start + size]
        if blake3.blake3(piece.data).digest() != digest:
            return False
        np.copyto(buffer[start : start + size], piece)
        start += size
    target.commit()
    return True
