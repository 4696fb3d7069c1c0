"""Chunks out of packs: every one is checked against its digest before it is handed on."""

from __future__ import annotations

import threading
from collections.abc import Callable, Collection, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from typing import TYPE_CHECKING

import blake3

from holdfast.errors import FormatError, NotFoundError, StorageError
from holdfast.repository import layout
from holdfast.repository.index import ChunkIndex, Copy
from holdfast.repository.pack import BLOCK_BYTES, RAW
from holdfast.storage.base import Storage
from holdfast.storage.direct import transfer_buffer

if TYPE_CHECKING:
    import numpy as np
    import numpy.typing as npt

    Bytes = npt.NDArray[np.uint8]

READ_BYTES = 4 * 1024 * 1024
READERS = 4
ROUNDS = 3
Sink = Callable[[bytes, "Bytes"], None]


class ChunkReader:
    """Reads chunks from packs, several reads in flight, each chunk verified.

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
        bounce = transfer_buffer(READ_BYTES + 2 * BLOCK_BYTES)
        failed: dict[bytes, str] = {}
        for run in runs:
            start = run[0].entry.offset
            read = self._read_run(run, bounce)
            for copy in run:
                at = copy.entry.offset - start
                data = read[at : at + copy.entry.stored_bytes]
                if matches(copy, data):
                    sink(copy.entry.digest, data)
                elif (reason := self._again(copy, sink)) is not None:
                    failed[copy.entry.digest] = reason
        return failed

    def _read_run(self, run: list[Copy], bounce: Bytes) -> Bytes:
        """Read whole blocks into the buffer, so that nothing has to be moved to its place."""
        start = run[0].entry.offset
        stop = run[-1].entry.offset + run[-1].entry.stored_bytes
        skew = start % BLOCK_BYTES
        size_bytes = -(-(stop - start + skew) // BLOCK_BYTES) * BLOCK_BYTES
        buffer = bounce if size_bytes <= len(bounce) else transfer_buffer(size_bytes)
        got = self._fill(run[0].pack, start - skew, buffer[:size_bytes])
        return buffer[skew : min(skew + stop - start, got)]

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
