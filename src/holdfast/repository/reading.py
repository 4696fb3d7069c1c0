"""Verified reads of tensors: into their own memory, from packs."""

from __future__ import annotations

import threading
from collections import defaultdict
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from itertools import islice
from typing import TYPE_CHECKING

from holdfast.domain.manifest import Manifest, TensorEntry, chunk_sizes, split_digests
from holdfast.domain.tensors import TensorTarget
from holdfast.errors import DamagedError, FormatError
from holdfast.repository.chunks import ChunkReader

if TYPE_CHECKING:
    import numpy as np
    import numpy.typing as npt

    Bytes = npt.NDArray[np.uint8]


class _Filling:
    """Tensors being filled: where each chunk goes, and what is still open."""

    def __init__(self, manifest: Manifest, wanted: Sequence[tuple[str, TensorTarget]]) -> None:
        import numpy as np

        self._copyto = np.copyto  # releases the GIL: other threads read and digest meanwhile
        self._targets = [target for _, target in wanted]
        self._names = [name for name, _ in wanted]
        self._places: dict[bytes, list[tuple[int, int, int]]] = defaultdict(list)
        self._open: list[int] = []
        self._buffers: dict[int, Bytes] = {}
        self._lock = threading.Lock()
        for number, name in enumerate(self._names):
            parts = list(pieces(manifest.tensors[name], manifest.chunk_bytes))
            self._open.append(len(parts))
            for digest, start, size in parts:
                self._places[digest].append((number, start, size))
            if not parts:
                self._targets[number].commit()

    @property
    def digests(self) -> Collection[bytes]:
        return self._places.keys()

    def sink(self, digest: bytes, data: Bytes) -> None:
        for number, start, size in self._places[digest]:
            if len(data) != size:  # only a forged manifest says so: its own digest was right
                raise DamagedError(f"The tensor {self._names[number]} names a chunk of another size.")
            self._copyto(self._buffer(number)[start : start + size], data)
            with self._lock:
                self._open[number] -= 1
                done = self._open[number] == 0
            if done:
                self._targets[number].commit()
                self._buffers.pop(number, None)

    def _buffer(self, number: int) -> Bytes:
        found = self._buffers.get(number)
        if found is not None:
            return found
        with self._lock:  # a target may have to make its buffer, and only once
            if number not in self._buffers:
                self._buffers[number] = self._targets[number].buffer()
            return self._buffers[number]

    def names(self, digest: bytes) -> set[str]:
        return {self._names[number] for number, _, _ in self._places[digest]}


def pieces(entry: TensorEntry, chunk_bytes: int) -> Iterator[tuple[bytes, int, int]]:
    """Digest, start and size of each chunk of a tensor; FormatError if it is divided among ranks."""
    if len(entry.shards) != 1 or entry.shards[0].sizes != entry.shape:
        raise FormatError(
            "The checkpoint holds a tensor divided among ranks, which this version cannot join.",
            do="Upgrade holdfast.",
        )
    start = 0
    digests = split_digests(entry.shards[0].chunks)
    for digest, size in zip(digests, chunk_sizes(entry.spec.size_bytes, chunk_bytes), strict=True):
        yield digest, start, size
        start += size


def read_tensors(
    reader: ChunkReader,
    manifest: Manifest,
    hints: Iterable[str],
    wanted: Sequence[tuple[str, TensorTarget]],
    what: str,
) -> None:
    """Fill and commit these targets with verified bytes.

    Raises
    ------
    DamagedError
        Names checkpoint, tensors and packs; some targets may have been written by then.
    """
    filling = _Filling(manifest, wanted)
    failed = reader.read(filling.digests, hints, filling.sink)
    raise_damage(failed, filling.names, what)


def raise_damage(failed: Mapping[bytes, str], names: Callable[[bytes], set[str]], what: str) -> None:
    """Raise one error that names the tensors of these chunks; nothing if there are none."""
    if not failed:
        return
    lines = sorted({f"tensor {name}: {why}" for digest, why in failed.items() for name in names(digest)})
    shown = list(islice(lines, 10)) + ([f"and {len(lines) - 10} more"] if len(lines) > 10 else [])
    raise DamagedError(
        f"{what} is damaged:\n  " + "\n  ".join(shown) + "\n",
        do="Run 'holdfast verify' for a full report.",
    )
