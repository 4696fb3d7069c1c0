"""Verified reads: every chunk is checked against its digest before it is handed on."""

from __future__ import annotations

import threading
from collections import defaultdict
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from itertools import islice
from typing import TYPE_CHECKING

import blake3

from holdfast.domain.manifest import Manifest, TensorEntry, chunk_sizes, split_digests
from holdfast.domain.tensors import TensorTarget
from holdfast.errors import DamagedError, FormatError, NotFoundError, StorageError
from holdfast.repository import layout
from holdfast.repository.index import ChunkIndex, Copy
from holdfast.repository.pack import RAW
from holdfast.storage.base import Storage

if TYPE_CHECKING:
    import numpy as np
    import numpy.typing as npt

    Bytes = npt.NDArray[np.uint8]

READ_BYTES = 4 * 1024 * 1024
READERS = 2
ROUNDS = 3
Sink = Callable[[bytes, "Bytes"], None]


class ChunkReader:
    """Reads chunks from packs, two reads in flight, each chunk verified.

    A chunk whose bytes do not match is read again; a copy found bad twice is recorded, and
    the next copy is tried. A pack that has vanished since its index was read is forgotten,
    and the indexes that are there now are read before damage is declared.
    """

    def __init__(self, storage: Storage, index: ChunkIndex) -> None:
        self._storage = storage
        self._index = index

    def read(self, digests: Collection[bytes], hints: Iterable[str], sink: Sink) -> dict[bytes, str]:
        """Hand every chunk to ``sink(digest, bytes)``, in any order, from several threads.

        The bytes are valid only during the call.

        Returns
        -------
        dict[bytes, str]
            The chunks of which no good copy is left, each with the reason.
        """
        reasons: dict[bytes, str] = {}
        wanted, hints = set(digests), list(hints)
        for _ in range(ROUNDS):
            lacking = self._index.cover(wanted, hints)
            reasons.update((d, self._why_lacking()) for d in lacking if d not in reasons)
            failed = self._read_covered(wanted - lacking, sink)
            reasons.update(failed)
            wanted = lacking | failed.keys()
            if not failed:
                break
        return {d: reasons[d] for d in wanted}

    def _read_covered(self, digests: Collection[bytes], sink: Sink) -> dict[bytes, str]:
        failed: dict[bytes, str] = {}
        wanted = [self._index.copies(d)[0] for d in digests]
        runs = list(_coalesce(sorted(wanted, key=lambda c: (c.pack, c.entry.offset))))
        workers = min(READERS, len(runs))
        if workers <= 1:
            failed.update(self._read_runs(iter(runs), sink))
            return failed
        shared = _Shared(runs)
        with ThreadPoolExecutor(workers) as pool:
            for result in pool.map(lambda _: self._read_runs(shared, sink), range(workers)):
                failed.update(result)
        return failed

    def _read_runs(self, runs: Iterator[list[Copy]], sink: Sink) -> dict[bytes, str]:
        import numpy as np

        bounce = np.empty(READ_BYTES, np.uint8)
        failed: dict[bytes, str] = {}
        for run in runs:
            start = run[0].entry.offset
            size_bytes = run[-1].entry.offset + run[-1].entry.stored_bytes - start
            buffer = bounce[:size_bytes] if size_bytes <= READ_BYTES else np.empty(size_bytes, np.uint8)
            got = self._fill(run[0].pack, start, buffer)
            for copy in run:
                at = copy.entry.offset - start
                data = buffer[at : min(at + copy.entry.stored_bytes, got)]
                if matches(copy, data):
                    sink(copy.entry.digest, data)
                elif (reason := self._again(copy, sink)) is not None:
                    failed[copy.entry.digest] = reason
        return failed

    def _fill(self, pack_id: str, start: int, buffer: Bytes) -> int:
        try:
            return self._storage.read_into(layout.pack(pack_id), start, buffer)
        except NotFoundError:
            return 0

    def _again(self, first: Copy, sink: Sink) -> str | None:
        """Second read of a bad copy, then of every other; None once one was good."""
        digest = first.entry.digest
        reason = ""
        for copy in [first, *(c for c in self._index.copies(digest) if c != first)]:
            reason = self._one(copy, sink)
            if not reason:
                return None
        return reason

    def _one(self, copy: Copy, sink: Sink) -> str:
        import numpy as np

        try:
            data: Bytes = np.empty(0, np.uint8)
            for _ in range(2):
                stop = copy.entry.offset + copy.entry.stored_bytes
                raw = self._storage.get(layout.pack(copy.pack), copy.entry.offset, stop)
                data = np.frombuffer(raw, np.uint8)
                if matches(copy, data):
                    sink(copy.entry.digest, data)
                    return ""
        except NotFoundError:
            self._index.forget(copy.pack)
            return f"pack {copy.pack} is missing"
        reason = "is cut short" if len(data) < copy.entry.stored_bytes else "does not match its digest"
        with suppress(StorageError):  # who may not write must still learn what is wrong
            self._index.record_damage(copy.pack, [copy.entry.digest], reason)
        return f"its copy in pack {copy.pack} {reason}"

    def _why_lacking(self) -> str:
        broken = self._index.unreadable
        if not broken:
            return "no pack holds it"
        others = " and others" if len(broken) > 1 else ""
        return f"no readable pack holds it ({next(iter(broken.values()))}{others})"


class _Shared:
    """An iterator that several threads may draw from."""

    def __init__(self, items: Iterable[list[Copy]]) -> None:
        self._items = iter(items)
        self._lock = threading.Lock()

    def __iter__(self) -> _Shared:
        return self

    def __next__(self) -> list[Copy]:
        with self._lock:
            return next(self._items)


def matches(copy: Copy, data: Bytes) -> bool:
    """Whether these stored bytes decode to the chunk."""
    if copy.entry.codec != RAW:
        raise FormatError(
            f"Pack {copy.pack} uses the codec {copy.entry.codec!r}, unknown to this version.",
            do="Upgrade holdfast.",
        )
    whole = len(data) == copy.entry.raw_bytes
    return whole and blake3.blake3(data.data).digest() == copy.entry.digest


def _coalesce(copies: Sequence[Copy]) -> Iterator[list[Copy]]:
    """Join neighbours in a pack into reads of at most `READ_BYTES`."""
    run: list[Copy] = []
    for copy in copies:
        if run and not _adjoins(run, copy):
            yield run
            run = []
        run.append(copy)
    if run:
        yield run


def _adjoins(run: list[Copy], copy: Copy) -> bool:
    first, last = run[0], run[-1]
    end = copy.entry.offset + copy.entry.stored_bytes
    touching = last.entry.offset + last.entry.stored_bytes == copy.entry.offset
    return copy.pack == first.pack and touching and end - first.entry.offset <= READ_BYTES


class _Filling:
    """Tensors being filled: where each chunk goes, and what is still open."""

    def __init__(self, manifest: Manifest, wanted: Sequence[tuple[str, TensorTarget]]) -> None:
        self._targets = [target for _, target in wanted]
        self._names = [name for name, _ in wanted]
        self._places: dict[bytes, list[tuple[int, int, int]]] = defaultdict(list)
        self._open: list[int] = []
        self._buffers: dict[int, Bytes] = {}
        self._lock = threading.Lock()
        for number, name in enumerate(self._names):
            pieces = list(_pieces(manifest.tensors[name], manifest.chunk_bytes))
            self._open.append(len(pieces))
            for digest, start, size in pieces:
                self._places[digest].append((number, start, size))
            if not pieces:
                self._targets[number].commit()

    @property
    def digests(self) -> Collection[bytes]:
        return self._places.keys()

    def sink(self, digest: bytes, data: Bytes) -> None:
        import numpy as np

        for number, start, size in self._places[digest]:
            if len(data) != size:  # only a forged manifest says so: its own digest was right
                raise DamagedError(f"The tensor {self._names[number]} names a chunk of another size.")
            np.copyto(self._buffer(number)[start : start + len(data)], data)
            with self._lock:
                self._open[number] -= 1
                done = self._open[number] == 0
            if done:
                self._targets[number].commit()
                self._buffers.pop(number, None)

    def _buffer(self, number: int) -> Bytes:
        with self._lock:
            if number not in self._buffers:
                self._buffers[number] = self._targets[number].buffer()
            return self._buffers[number]

    def names(self, digest: bytes) -> set[str]:
        return {self._names[number] for number, _, _ in self._places[digest]}


def _pieces(entry: TensorEntry, chunk_bytes: int) -> Iterator[tuple[bytes, int, int]]:
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
