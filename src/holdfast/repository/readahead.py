"""Reading ahead: a few reads always in flight, into buffers used in turn.

Who digests and copies what was read takes longer for some stretches than for others, and the disk
must not wait for it (docs/design/006-speed-of-save-and-load.md).
"""

from __future__ import annotations

import errno
import threading
from collections import deque
from collections.abc import Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor, wait
from typing import TYPE_CHECKING

from holdfast.errors import DamagedError, NotFoundError, StorageError
from holdfast.repository import layout
from holdfast.repository.index import Copy
from holdfast.repository.pack import BLOCK_BYTES
from holdfast.storage.base import Storage
from holdfast.storage.direct import transfer_buffer

if TYPE_CHECKING:
    from types import TracebackType

    import numpy as np
    import numpy.typing as npt

    Bytes = npt.NDArray[np.uint8]

READ_BYTES = 8 * 1024 * 1024
READERS = 6
BUFFERS = 16
BRIEF_BYTES = 1024 * 1024
"""So much comes from a disk of this machine sooner than threads start."""
_BUFFER_BYTES = READ_BYTES + 2 * BLOCK_BYTES
Stretch = list[Copy]


class ReadAhead:
    """Reads stretches of packs in order, as many ahead as there are buffers.

    Parameters
    ----------
    storage : Storage
    """

    def __init__(self, storage: Storage) -> None:
        self._storage = storage
        self._pool = ThreadPoolExecutor(READERS)
        self._lock = threading.Lock()
        self._coming: deque[Stretch] = deque()
        self._begun: deque[_Read] = deque()
        memory = transfer_buffer(BUFFERS * _BUFFER_BYTES)
        self._free = deque(memory[i * _BUFFER_BYTES :][:_BUFFER_BYTES] for i in range(BUFFERS))

    def __enter__(self) -> ReadAhead:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self._pool.shutdown(cancel_futures=True)

    def __len__(self) -> int:
        """Stretches that nobody has looked at yet."""
        return len(self._begun) + len(self._coming)

    @property
    def is_brief(self) -> bool:
        """Whether what is to be read is worth no threads."""
        if self._begun or len(self._coming) <= 1:
            return not self._begun
        stored_bytes = sum(copy.entry.stored_bytes for stretch in self._coming for copy in stretch)
        return self._storage.exclusive_locks and stored_bytes <= BRIEF_BYTES

    def copies(self) -> Iterator[Copy]:
        """What is in these."""
        stretches = [*self._coming, *(read.stretch for read in self._begun)]
        return (copy for stretch in stretches for copy in stretch)

    def extend(self, stretches: Iterable[Stretch]) -> None:
        """Read these after what was asked for before."""
        with self._lock:
            self._coming.extend(stretches)
            if not self.is_brief:  # that is read by who asks for it, without a thread
                self._fill()

    def stop(self) -> None:
        """Hand out nothing more."""
        with self._lock:
            self._coming.clear()
            self._begun.clear()

    def reads(self) -> Iterator[_Read]:
        """What was asked for, in order; several threads may draw. Its bytes are valid until the next."""
        while (read := self._next()) is not None:
            yield read
            read.end()  # also of what nobody looked at: its buffer must not be written to any more
            with self._lock:
                self._free.append(read.buffer)
                if not self.is_brief:
                    self._fill()

    def _next(self) -> _Read | None:
        with self._lock:
            if self._begun:
                return self._begun.popleft()
            return self._drawn() if self._coming else None

    def _fill(self) -> None:
        """Begin reads while there is a buffer free; the lock is held."""
        while self._free and self._coming:
            read = self._drawn()
            read.begin(self._pool)
            self._begun.append(read)

    def _drawn(self) -> _Read:
        return _Read(self._coming.popleft(), self._free.popleft(), self._storage)


class _Read:
    """One stretch on its way into a buffer."""

    def __init__(self, stretch: Stretch, buffer: Bytes, storage: Storage) -> None:
        self.stretch = stretch
        self.buffer = buffer
        self._storage = storage
        self._future: Future[Bytes] | None = None
        first, last = stretch[0].entry, stretch[-1].entry
        self._skew = first.offset % BLOCK_BYTES
        self._start = first.offset - self._skew
        self._end = last.offset + last.stored_bytes - self._start

    def begin(self, pool: ThreadPoolExecutor) -> None:
        if self._end <= len(self.buffer):  # a larger one would need memory beyond the buffers
            self._future = pool.submit(self._read)

    def bytes(self) -> Bytes:
        """The bytes of the stretch, fewer where the pack is cut short or gone."""
        return self._read() if self._future is None else self._future.result()

    def end(self) -> None:
        """Return when nothing is being read any more."""
        if self._future is not None:
            wait([self._future])

    def _read(self) -> Bytes:
        """Read whole blocks, so that nothing has to be moved to its place."""
        size_bytes = -(-self._end // BLOCK_BYTES) * BLOCK_BYTES
        buffer = self.buffer if size_bytes <= len(self.buffer) else transfer_buffer(size_bytes)
        try:
            got = self._storage.read_into(layout.pack(self.stretch[0].pack), self._start, buffer[:size_bytes])
        except (NotFoundError, DamagedError):  # who reads its chunks one by one finds out which
            got = 0
        except StorageError as error:  # likewise: of one bad sector only its own chunk is lost
            if error.errno != errno.EIO:
                raise
            got = 0
        return buffer[self._skew : min(self._end, got)]


def coalesce(copies: Iterable[Copy]) -> Iterator[Stretch]:
    """Join neighbours in a pack into reads of at most `READ_BYTES`."""
    stretch: Stretch = []
    for copy in copies:
        if stretch and not _adjoins(stretch, copy):
            yield stretch
            stretch = []
        stretch.append(copy)
    if stretch:
        yield stretch


def _adjoins(stretch: Stretch, copy: Copy) -> bool:
    first, last = stretch[0], stretch[-1]
    end = copy.entry.offset + copy.entry.stored_bytes
    touching = last.entry.offset + last.entry.stored_bytes == copy.entry.offset
    return copy.pack == first.pack and touching and end - first.entry.offset <= READ_BYTES
