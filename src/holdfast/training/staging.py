"""Copying a snapshot into shared memory, by threads that hold Python up as little as can be."""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING

from holdfast.domain.tensors import TensorSource
from holdfast.node.arena import SMALL_BYTES, Place, Slot

if TYPE_CHECKING:
    import numpy as np
    import numpy.typing as npt

    Bytes = npt.NDArray[np.uint8]

PIECE_BYTES = 16 * 1024 * 1024
GATHERED = 1000
"""Buffers that one system call takes; Linux allows 1024."""
COPIERS = 2


def stage(sources: Mapping[str, TensorSource], places: Mapping[str, Place], slot: Slot) -> None:
    """Copy every tensor to its place in the slot; on return the live ones may change again."""
    small: list[tuple[int, Bytes]] = []
    pieces: list[tuple[Bytes, Bytes]] = []
    for name, source in sources.items():
        place = places[name]
        data = source.read()
        if len(data) < SMALL_BYTES:
            small.append((place.offset, data))
        else:
            pieces += _cut(slot.memory[place.offset : place.offset + len(data)], data)
    _copy(pieces)
    _gather(slot, small)


def _cut(target: Bytes, data: Bytes) -> Iterator[tuple[Bytes, Bytes]]:
    for start in range(0, len(data), PIECE_BYTES):
        yield target[start : start + PIECE_BYTES], data[start : start + PIECE_BYTES]


def _copy(pieces: Sequence[tuple[Bytes, Bytes]]) -> None:
    import numpy as np

    if sum(len(data) for _, data in pieces) <= PIECE_BYTES:
        for target, data in pieces:
            np.copyto(target, data)
        return
    with ThreadPoolExecutor(COPIERS) as pool:
        for _ in pool.map(lambda piece: np.copyto(*piece), pieces):
            pass


def _gather(slot: Slot, small: Sequence[tuple[int, Bytes]]) -> None:
    """Write tensors that lie end to end, many with one call: no Python for each."""
    for start in range(0, len(small), GATHERED):
        group = small[start : start + GATHERED]
        buffers = [data.data for _, data in group]
        written = os.pwritev(slot.descriptor, buffers, group[0][0]) if buffers else 0
        if written != sum(map(len, buffers)):  # the memory was taken before: it cannot run out
            raise RuntimeError("shared memory took only a part of what was written")
