"""Verified reads of tensors: into their own memory, from packs."""

from __future__ import annotations

import threading
from collections import defaultdict
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from itertools import islice
from typing import TYPE_CHECKING

from holdfast.domain.manifest import Manifest, TensorEntry, chunk_sizes, split_digests
from holdfast.domain.tensors import DIGEST_BYTES, TensorTarget
from holdfast.errors import DamagedError, FormatError
from holdfast.repository.chunks import ChunkReader
from holdfast.repository.readahead import ReadAhead

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
        self._whole: dict[bytes, list[int]] = defaultdict(list)
        """Chunks that are whole tensors, as most are, and need no count nor lock."""
        self._parts: dict[bytes, list[tuple[int, int, int]]] = defaultdict(list)
        self._open: dict[int, int] = {}
        self._buffers: dict[int, Bytes] = {}
        self._lock = threading.Lock()
        for number, name in enumerate(self._names):
            entry = manifest.tensors[name]
            chunks = undivided(entry)
            if len(chunks) == DIGEST_BYTES:
                self._whole[chunks].append(number)
            elif chunks:
                self._divide(number, chunks, chunk_sizes(entry.spec.size_bytes, manifest.chunk_bytes))
            else:
                self._targets[number].commit()

    def _divide(self, number: int, chunks: bytes, sizes: Sequence[int]) -> None:
        self._open[number] = len(sizes)
        start = 0
        for digest, size in zip(split_digests(chunks), sizes, strict=True):
            self._parts[digest].append((number, start, size))
            start += size

    @property
    def digests(self) -> Collection[bytes]:
        return self._whole.keys() | self._parts.keys()

    def sink(self, digest: bytes, data: Bytes) -> None:
        for number in self._whole.get(digest, ()):
            self._copy(self._targets[number].buffer(), data, number)
            self._targets[number].commit()
        for number, start, size in self._parts.get(digest, ()):
            self._copy(self._buffer(number)[start : start + size], data, number)
            if self._is_full(number):
                self._targets[number].commit()

    def _copy(self, place: Bytes, data: Bytes, number: int) -> None:
        if len(place) != len(data):  # only a forged manifest says so: its own digest was right
            raise DamagedError(f"The tensor {self._names[number]} names a chunk of another size.")
        self._copyto(place, data)

    def _buffer(self, number: int) -> Bytes:
        with self._lock:  # a target may have to make its buffer, and only once
            if number not in self._buffers:
                self._buffers[number] = self._targets[number].buffer()
            return self._buffers[number]

    def _is_full(self, number: int) -> bool:
        with self._lock:
            self._open[number] -= 1
            if self._open[number]:
                return False
            del self._buffers[number]
            return True

    def names(self, digest: bytes) -> set[str]:
        numbers = [*self._whole.get(digest, ()), *(n for n, _, _ in self._parts.get(digest, ()))]
        return {self._names[number] for number in numbers}


def undivided(entry: TensorEntry) -> bytes:
    """The digests of a tensor's chunks; FormatError if it is divided among ranks."""
    if len(entry.shards) != 1 or entry.shards[0].sizes != entry.shape:
        raise FormatError(
            "The checkpoint holds a tensor divided among ranks, which this version cannot join.",
            do="Upgrade holdfast.",
        )
    return entry.shards[0].chunks


def read_tensors(
    reader: ChunkReader,
    manifest: Manifest,
    hints: Iterable[str],
    wanted: Sequence[tuple[str, TensorTarget]],
    what: str,
    ahead: ReadAhead | None = None,
) -> None:
    """Fill and commit these targets with verified bytes.

    Parameters
    ----------
    ahead : ReadAhead, optional
        What the reader has begun already.

    Raises
    ------
    DamagedError
        Names checkpoint, tensors and packs; some targets may have been written by then.
    """
    filling = _Filling(manifest, wanted)
    failed = reader.read(filling.digests, hints, filling.sink, ahead)
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
