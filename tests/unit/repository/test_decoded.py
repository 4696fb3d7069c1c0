"""Bases that one thread decodes and another needs."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor

import numpy as np
import pytest

from holdfast.repository import decoded
from holdfast.repository.decoded import DecodedChunks
from holdfast.repository.index import Copy
from holdfast.repository.pack import PackEntry

PACK = "a" * 32
RAW = np.arange(10, dtype=np.uint8)


def copy_at(offset: int) -> Copy:
    return Copy(PACK, PackEntry(bytes([offset]) * 32, offset, 1, len(RAW)))


BASE, ABOVE = copy_at(10), copy_at(20)


@pytest.fixture
def chunks() -> DecodedChunks:
    return DecodedChunks()


@pytest.fixture
def pool() -> Iterator[ThreadPoolExecutor]:
    with ThreadPoolExecutor(1) as pool:
        yield pool


def waiting(pool: ThreadPoolExecutor, chunks: DecodedChunks) -> Future[np.ndarray | None]:
    """Another thread's search for the base, which has begun."""
    begun = threading.Event()

    def find() -> np.ndarray | None:
        begun.set()
        return chunks.find(BASE, ABOVE)

    future = pool.submit(find)
    assert begun.wait(10)
    return future


def test_what_another_thread_is_about_to_decode_is_waited_for(
    chunks: DecodedChunks, pool: ThreadPoolExecutor
) -> None:
    with chunks.coming([BASE, ABOVE]):
        future = waiting(pool, chunks)
        with pytest.raises(TimeoutError):
            future.result(0.05)
        chunks.keep(BASE, RAW)
        assert future.result(10) is RAW


def test_a_bad_one_is_not_waited_for(chunks: DecodedChunks, pool: ThreadPoolExecutor) -> None:
    with chunks.coming([BASE]):
        future = waiting(pool, chunks)
        chunks.failed(BASE)
        assert future.result(10) is None


def test_a_thread_that_fails_keeps_nobody_waiting(chunks: DecodedChunks, pool: ThreadPoolExecutor) -> None:
    def fail(found: list[Future[np.ndarray | None]]) -> None:
        with chunks.coming([BASE]):
            found.append(waiting(pool, chunks))
            raise OSError("gone")

    found: list[Future[np.ndarray | None]] = []
    with pytest.raises(OSError, match="gone"):
        fail(found)
    assert found[0].result(10) is None


@pytest.mark.timeout(10)
def test_what_lies_behind_is_not_waited_for(chunks: DecodedChunks) -> None:
    with chunks.coming([BASE, ABOVE]):
        assert chunks.find(ABOVE, BASE) is None
        assert chunks.find(BASE, BASE) is None


def test_the_newest_are_kept(chunks: DecodedChunks, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(decoded, "MOST_BYTES", 2 * len(RAW))
    for offset in (1, 2, 1, 3, 4):
        chunks.keep(copy_at(offset), RAW)
    assert [chunks.find(copy_at(offset), ABOVE) is RAW for offset in (1, 2, 3, 4)] == [
        False,
        False,
        True,
        True,
    ]
