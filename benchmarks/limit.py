"""What the disk and the memory can do: the same number of bytes with nothing around them."""

from __future__ import annotations

import mmap
import os
import threading
from collections.abc import Callable
from pathlib import Path

import numpy as np
from measure import seconds, settle

BLOCK_BYTES = 4 << 20
POOL_BYTES = 256 << 20
WORKERS = (1, 2, 3)
O_DIRECT = getattr(os, "O_DIRECT", 0)


class Limit:
    """Times the best direct write, direct read and memcpy of ``size_bytes``."""

    def __init__(self, folder: Path, size_bytes: int) -> None:
        self._path = folder / "limit.bin"
        self._size_bytes = -(-size_bytes // BLOCK_BYTES) * BLOCK_BYTES
        # Random and page-aligned: a disk below that folds equal or empty blocks gains nothing.
        # In huge pages: requests to the disk are cut where the pages of memory lie scattered.
        self._pool = mmap.mmap(-1, POOL_BYTES, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
        self._pool.madvise(mmap.MADV_HUGEPAGE)
        for start in range(0, POOL_BYTES, BLOCK_BYTES):
            self._pool[start : start + BLOCK_BYTES] = os.urandom(BLOCK_BYTES)

    def measure(self) -> dict[str, float]:
        """Seconds of each, the best of one to three threads."""
        try:
            write = min(self._timed(workers, self._write) for workers in WORKERS)
            read = min(self._timed(workers, self._read) for workers in WORKERS)
        finally:
            self._path.unlink(missing_ok=True)
        return {"write": write, "read": read, "memcpy": self._memcpy()}

    def _timed(self, workers: int, move: Callable[[int, int, int], None]) -> float:
        settle([self._path] if self._path.exists() else [])
        writing = move == self._write
        flags = os.O_WRONLY | os.O_CREAT | os.O_TRUNC if writing else os.O_RDONLY
        descriptor = os.open(self._path, flags | O_DIRECT, 0o600)
        try:
            return seconds(lambda: self._moved(descriptor, workers, move, sync=writing))
        finally:
            os.close(descriptor)

    def _moved(
        self, descriptor: int, workers: int, move: Callable[[int, int, int], None], *, sync: bool
    ) -> None:
        threads = [threading.Thread(target=move, args=(descriptor, n, workers)) for n in range(workers)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        if sync:
            os.fsync(descriptor)

    def _write(self, descriptor: int, number: int, workers: int) -> None:
        pool = memoryview(self._pool)
        for start in range(number * BLOCK_BYTES, self._size_bytes, workers * BLOCK_BYTES):
            at = start % POOL_BYTES
            os.pwrite(descriptor, pool[at : at + BLOCK_BYTES], start)

    def _read(self, descriptor: int, number: int, workers: int) -> None:
        # Into memory as large as caches are not: a device writing into cached memory is slower.
        pool = memoryview(self._pool)
        for start in range(number * BLOCK_BYTES, self._size_bytes, workers * BLOCK_BYTES):
            at = start % POOL_BYTES
            os.preadv(descriptor, [pool[at : at + BLOCK_BYTES]], start)

    def _memcpy(self) -> float:
        source = np.frombuffer(self._pool, np.uint8)
        target = np.empty(POOL_BYTES, np.uint8)
        np.copyto(target, source)  # memory that was never touched is slower
        return seconds(lambda: np.copyto(target, source)) * self._size_bytes / POOL_BYTES
