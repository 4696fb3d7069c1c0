"""What the kernel says of writes to memory: every kind of write is seen, and nothing but writes."""

from __future__ import annotations

import gc
import mmap
import os
import random
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest

from holdfast.node import written
from holdfast.node.written import Watch, Watched

Bytes = npt.NDArray[np.uint8]
PAGE = mmap.PAGESIZE
SIZE = 64 * PAGE
pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="asked of Linux")


@pytest.fixture
def watch() -> Iterator[Watch]:
    found = Watch.open()
    if found is None:
        pytest.skip("this kernel is older than 6.7, or forbids userfaultfd")
    yield found
    found.close()


def private(size: int = SIZE) -> tuple[mmap.mmap, Bytes]:
    """Anonymous pages of our own, all in use; and all bytes but a few at either end."""
    pages = mmap.mmap(-1, size, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
    whole = np.frombuffer(pages, np.uint8)
    whole[:] = 7
    return pages, whole[100:-100]


def begun(watch: Watch, data: Bytes) -> Watched:
    (watched,) = watch.begin([data])
    assert watched is not None
    return watched


def by_the_kernel(data: Bytes) -> None:
    with Path("/dev/zero").open("rb", buffering=0) as zeros:
        zeros.readinto(data[3 * PAGE : 3 * PAGE + 1].data)


def descriptors() -> set[str]:
    return {entry.name for entry in Path("/proc/self/fd").iterdir() if entry.is_symlink()}


def set_at(index: int, value: int = 8) -> Callable[[Bytes], None]:
    def act(data: Bytes) -> None:
        data[index] = value

    return act


@pytest.mark.parametrize(
    "change",
    [
        pytest.param(set_at(10 * PAGE), id="one byte within"),
        pytest.param(set_at(0), id="the first"),
        pytest.param(set_at(-1), id="the last"),
        pytest.param(set_at(10 * PAGE, 7), id="the value that it had"),
        pytest.param(by_the_kernel, id="by a system call"),
        pytest.param(lambda data: data.__iadd__(1), id="all of it"),
    ],
)
def test_a_write_is_seen(change: Callable[[Bytes], Any], watch: Watch) -> None:
    _, data = private()
    watched = begun(watch, data)
    assert not watch.is_written(watched, data)
    change(data)
    assert watch.is_written(watched, data)
    assert not watch.is_written(begun(watch, data), data), "from now on it is another state"


def test_reads_and_what_lies_beside_it_do_not_count(watch: Watch) -> None:
    pages, data = private()
    watched = begun(watch, data)
    assert data.sum() == 7 * len(data)
    pages[0] = pages[SIZE - 1] = 99
    os.writev(os.open("/dev/null", os.O_WRONLY), [data.data])
    assert not watch.is_written(watched, data)


@pytest.mark.parametrize("pages_gone", [1, SIZE // PAGE])
@pytest.mark.parametrize("read", [False, True])
def test_pages_that_were_given_back_count_as_written(pages_gone: int, read: bool, watch: Watch) -> None:
    pages, data = private()
    watched = begun(watch, data)
    pages.madvise(mmap.MADV_DONTNEED, 0, pages_gone * PAGE)
    if read:
        assert data.min() == 0
    assert watch.is_written(watched, data)


def test_memory_mapped_anew_counts_as_written(watch: Watch) -> None:
    data: Bytes = np.full(64 << 20, 7, np.uint8)  # of this size malloc maps and unmaps
    watched, address = begun(watch, data), written.address_of(data)
    del data
    gc.collect()
    anew = np.full(64 << 20, 7, np.uint8)
    if written.address_of(anew) != address:
        pytest.skip("the system gave another place to it")
    assert watch.is_written(watched, anew)


def test_what_another_has_watched_there_does_not_hide_that_it_is_mapped_anew(watch: Watch) -> None:
    other = Watch.open()
    assert other is not None
    data: Bytes = np.zeros(64 << 20, np.uint8)
    data.fill(0)
    watched, address = begun(watch, data), written.address_of(data)
    del data
    gc.collect()
    anew: Bytes = np.zeros(64 << 20, np.uint8)
    anew.fill(0)
    anew[32 << 20] = 1
    if written.address_of(anew) != address:
        pytest.skip("the system gave another place to it")
    assert other.begin([anew]) == [None]
    assert watch.is_written(watched, anew)
    watch.end(watched)
    assert other.begin([anew]) != [None]
    other.close()


def test_a_child_s_writes_are_its_own_and_it_can_ask_nothing(watch: Watch) -> None:
    _, data = private()
    watched = begun(watch, data)
    child = os.fork()
    if child == 0:
        seen = watch.is_written(watched, data)
        data[:] = 9
        os._exit(0 if seen else 1)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
    assert not watch.is_written(watched, data)
    data[5 * PAGE] = 9
    assert watch.is_written(watched, data)


def test_memory_that_others_may_write_to_is_not_watched(watch: Watch, tmp_path: Path) -> None:
    shared = np.frombuffer(mmap.mmap(-1, SIZE), np.uint8)
    (tmp_path / "file").write_bytes(bytes(SIZE))
    with (tmp_path / "file").open("r+b") as file:
        mapped = np.frombuffer(mmap.mmap(file.fileno(), SIZE, flags=mmap.MAP_PRIVATE), np.uint8)
    assert watch.begin([shared, mapped, np.zeros(100, np.uint8)]) == [None, None, None]


def test_what_is_watched_no_longer_counts_as_written(watch: Watch) -> None:
    _, data = private()
    watched = begun(watch, data)
    watch.end(watched)
    assert watch.is_written(watched, data)


def test_no_more_is_watched_than_mappings_allow(watch: Watch, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(written, "MOST_RANGES", 2)
    several = [private()[1] for _ in range(3)]
    first, second, third = watch.begin(several)
    assert first is not None
    assert second is not None
    assert third is None
    watch.end(first)
    assert watch.begin([several[2]]) != [None]


def test_random_writes_are_seen_wherever_they_are(watch: Watch) -> None:
    _, data = private()
    for _ in range(300):
        watched = begun(watch, data)
        if random.random() < 0.5:
            data[random.randrange(len(data))] ^= 1
            assert watch.is_written(watched, data)
        else:
            assert not watch.is_written(watched, data)


def test_without_the_system_call_there_is_no_watch(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(written, "_SYSCALL", {})
    assert Watch.open() is None


def test_it_leaves_no_descriptor(watch: Watch) -> None:
    before = descriptors()
    other = Watch.open()
    assert other is not None
    other.close()
    other.close()
    assert descriptors() == before
