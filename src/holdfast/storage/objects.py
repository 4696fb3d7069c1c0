"""Objects in a store that is reached over a network, through obstore.

A write that obstore has returned from is durable and visible to all. Nothing locks: graces stand in for that.
"""

from __future__ import annotations

import errno
import os
import threading
import time
import uuid
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from itertools import chain
from typing import TYPE_CHECKING, Any

import numpy as np
import obstore
from obstore.exceptions import AlreadyExistsError, GenericError

from holdfast.errors import NotFoundError, StorageError
from holdfast.storage.base import ObjectStat
from holdfast.storage.conditions import Creator, take_away, working_creator
from holdfast.storage.direct import byte_view
from holdfast.storage.keys import check_key, check_prefix
from holdfast.storage.refusals import ABSENT, is_beyond_the_end, may_pass, refusal, told_plainly

if TYPE_CHECKING:
    import numpy.typing as npt

    from holdfast.storage.base import Buffer
    from holdfast.storage.pacing import Pace

PART_BYTES = 8 * 1024 * 1024
"""What is larger goes in parts of this size, `PARTS` of them at a time."""
PARTS = 4
WHOLE_BYTES = 72 * 1024 * 1024
"""So much, a whole pack, is collected before it is sent: obstore copies what comes in a stream."""
CREATE_SECONDS = 120.0
"""How long a creation is tried whose answers are lost."""
CLOCK_SECONDS = 300.0
"""How long the difference of this clock to the store's is trusted."""
_PAUSE_SECONDS = (0.2, 0.5, 1.0, 2.0, 5.0)
_ON_TRIAL = "staging/"
_users: set[int] = set()
"""This process if it has used a store, and the one that it was forked from if that had."""


class ObjectStorage:
    """Objects below a prefix of a bucket.

    Parameters
    ----------
    store : obstore store
        Repeats what failed by itself; overwriting and reading may be repeated.
    creators : sequence of Creator
        Ways to create an object only if it is absent; the first that works is used.
    location : str
        URL, without secrets.
    sending, asking : Pace, optional
        Of bytes that leave, and of requests.
    """

    def __init__(
        self,
        store: Any,
        creators: Sequence[Creator],
        location: str,
        sending: Pace | None = None,
        asking: Pace | None = None,
    ) -> None:
        self._reached = store
        self._creators = creators
        self._location = location
        self._sending = sending
        self._asking = asking
        self._lock = threading.Lock()
        self._creator: Creator | None = None
        self._clock: tuple[float, float] | None = None

    @property
    def location(self) -> str:
        return self._location

    @property
    def _store(self) -> Any:
        self._wait_for_turn()
        return self._reached

    def _wait_for_turn(self) -> None:
        """Return when a request may leave; from a forked process none may."""
        _users.add(os.getpid())
        if len(_users) > 1:  # threads that obstore waits for are the parent's
            raise StorageError(
                f"{self._location} cannot be reached: a process that used object stores was forked.",
                do="Start that process with 'spawn', or before anything is loaded or saved.",
            )
        if self._asking is not None:
            self._asking.wait(1)

    def put(self, key: str, parts: Iterable[Buffer]) -> None:
        check_key(key)
        raised: list[BaseException] = []
        if self._sending is not None:
            copies = _paced(_in_pieces(_noting(parts, raised), PART_BYTES), self._sending)
        elif isinstance(parts, Sequence) and len(parts) == 1:  # its producer waits: it is sent as it lies
            copies = iter([byte_view(parts[0])])
        else:
            copies = _in_pieces(_noting(parts, raised), WHOLE_BYTES)
        first, second = next(copies, memoryview(b"")), next(copies, None)
        how: Any = {"chunk_size": PART_BYTES, "max_concurrency": PARTS}
        with told_plainly(f"writing {key}", self._location, but=raised):
            if second is None:
                obstore.put(self._store, key, first, use_multipart=len(first) > PART_BYTES, **how)
            else:
                obstore.put(self._store, key, chain([first, second], copies), use_multipart=True, **how)

    def put_if_absent(self, key: str, data: bytes) -> bool:
        check_key(key)
        return self._create(self._working_creator(), key, bytes(data))

    def _create(self, creator: Creator, key: str, data: bytes) -> bool:
        """Create once. After a lost answer, what is there is compared: it may be ours."""
        is_doubtful = False
        until = time.monotonic() + CREATE_SECONDS
        for pause_seconds in chain(_PAUSE_SECONDS, iter(lambda: _PAUSE_SECONDS[-1], None)):
            self._wait_for_turn()
            try:
                creator.create(key, data)
            except AlreadyExistsError as error:
                if self.stat(key) is not None:
                    return is_doubtful and self.get(key) == data
                failure: Exception = error  # two creations at one time may both be refused
            except GenericError as error:
                is_doubtful, failure = True, error
            else:
                return True
            if not may_pass(failure) or time.monotonic() > until:
                raise refusal(failure, f"creating {key}", self._location) from failure
            time.sleep(pause_seconds)
        raise AssertionError  # the pauses have no end

    def check_conditions(self) -> str:
        return self._working_creator().name

    def _working_creator(self) -> Creator:
        """Found out once: that takes some requests."""
        with self._lock:
            if self._creator is None:
                self._creator = working_creator(self._creators, self._store, self._location)
            return self._creator

    def get(self, key: str, start: int = 0, stop: int | None = None) -> bytes:
        check_key(key)
        if stop is not None and stop <= start:
            self._found(key)
            return b""
        options: Any = {"range": {"offset": start} if stop is None else (start, stop)}
        whole = start == 0 and stop is None
        with told_plainly(f"reading {key}", self._location):
            try:
                return bytes(obstore.get(self._store, key, options=None if whole else options).bytes())
            except GenericError as error:
                if is_beyond_the_end(error):
                    return b""
                raise

    def read_into(self, key: str, start: int, buffer: npt.NDArray[np.uint8]) -> int:
        data = self.get(key, start, start + len(buffer))
        np.copyto(buffer[: len(data)], np.frombuffer(data, np.uint8))
        return len(data)

    def list(self, prefix: str, start_after: str = "") -> Iterator[str]:
        check_prefix(prefix)
        folder = prefix.rstrip("/") or None
        with told_plainly(f"listing {prefix or 'everything'}", self._location):
            pages = obstore.list(self._store, prefix=folder, offset=start_after or None, chunk_size=1000)
            keys = [found["path"] for page in pages for found in page]
        yield from sorted(key for key in keys if key > start_after)

    def delete(self, key: str) -> None:
        check_key(key)
        with told_plainly(f"deleting {key}", self._location):
            try:
                obstore.delete(self._store, key)
            except ABSENT:
                return

    def sweep_temporaries(self, *, older_than_seconds: float) -> int:
        """Remove what was made on trial and left; return how many objects."""
        before_seconds = self.now_seconds() - older_than_seconds
        old = [k for k in self.list(_ON_TRIAL) if (s := self.stat(k)) and s.modified_seconds < before_seconds]
        for key in old:
            self.delete(key)
        return len(old)

    def stat(self, key: str) -> ObjectStat | None:
        check_key(key)
        with told_plainly(f"looking at {key}", self._location):
            try:
                found = obstore.head(self._store, key)
            except ABSENT:
                return None
        return ObjectStat(size_bytes=found["size"], modified_seconds=found["last_modified"].timestamp())

    def _found(self, key: str) -> ObjectStat:
        found = self.stat(key)
        if found is None:
            raise NotFoundError(f"There is no {key} in {self._location}.")
        return found

    def now_seconds(self) -> float:
        """By the age of an object that is made for it, once in a while."""
        with self._lock:
            now = time.monotonic()
            if self._clock is None or now - self._clock[0] > CLOCK_SECONDS:
                self._clock = now, self._asked_seconds()
            asked, told_seconds = self._clock
        return told_seconds + time.monotonic() - asked

    def _asked_seconds(self) -> float:
        key = f"{_ON_TRIAL}clock-{uuid.uuid4().hex}"
        try:
            self.put(key, [b"."])
        except StorageError as error:
            if error.errno != errno.EACCES:
                raise
            return time.time()  # who may only read deletes nothing by it
        try:
            return self._found(key).modified_seconds
        finally:
            with told_plainly(f"deleting {key}", self._location):
                take_away(self._store, key)

    def free_bytes(self) -> int | None:
        return None

    @property
    def exclusive_locks(self) -> bool:
        return False

    @property
    def sends_whole(self) -> bool:
        return self._sending is None

    @contextmanager
    def lock(self, name: str, *, shared: bool, wait_seconds: float) -> Iterator[bool]:
        yield False


def _in_pieces(parts: Iterable[Buffer], piece_bytes: int) -> Iterator[memoryview]:
    """Copies of so many bytes but the last: producers use their buffers again, a store keeps these."""
    piece, filled = np.empty(piece_bytes, np.uint8), 0
    for part in parts:
        left = np.frombuffer(byte_view(part), np.uint8)
        while len(left):
            taken = left[: piece_bytes - filled]
            piece[filled : filled + len(taken)] = taken
            filled += len(taken)
            left = left[len(taken) :]
            if filled == piece_bytes:
                yield piece.data
                piece, filled = np.empty(piece_bytes, np.uint8), 0
    if filled:
        yield piece[:filled].data


def _paced(parts: Iterator[memoryview], pace: Pace) -> Iterator[memoryview]:
    for part in parts:
        pace.wait(len(part))
        yield part


def _noting(parts: Iterable[Buffer], raised: list[BaseException]) -> Iterator[Buffer]:
    """The parts; should their producer fail, that error is noted to be told from the store's."""
    try:
        yield from parts
    except BaseException as error:
        raised.append(error)
        raise
