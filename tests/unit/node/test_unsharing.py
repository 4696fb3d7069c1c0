"""Memory taken for good from shared memory: a process's own, also for those forked from it."""

from __future__ import annotations

import gc
import os
import sys
import threading
from collections.abc import Callable
from mmap import PAGESIZE
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from holdfast.node import unsharing
from holdfast.node.arena import Slot
from holdfast.node.unsharing import Stretch, between, in_pages
from holdfast.storage import linux

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="memory shared without a name is Linux's")
SIZE = 64 * PAGESIZE


def in_child(look: Callable[[], bool], before: Callable[[], None]) -> bool:
    """Whether a forked process finds it so, after the parent has done this."""
    go, ready = os.pipe()
    child = os.fork()
    if child == 0:
        os.read(go, 1)
        os._exit(0 if look() else 1)
    before()
    os.write(ready, b".")
    os.close(go)
    os.close(ready)
    return os.waitpid(child, 0)[1] == 0


def pages_of(slot: Slot) -> int:
    return os.fstat(slot.descriptor).st_blocks * 512 // PAGESIZE


def descriptors() -> int:
    return len(list(Path("/proc/self/fd").iterdir()))


def test_who_is_forked_sees_what_there_was_and_no_change_since() -> None:
    slot = Slot.create(SIZE)
    slot.memory[:] = np.arange(SIZE) % 251
    taken = slot.take(3 * PAGESIZE + 64, 5 * PAGESIZE)
    before = np.array(taken)

    def write() -> None:
        taken[:] = 9

    assert in_child(lambda: bool((taken == before).all()), write)
    assert (taken == 9).all()
    slot.close()


def test_what_a_forked_process_writes_stays_its_own() -> None:
    slot = Slot.create(SIZE)
    taken = slot.take(0, SIZE)
    taken[:] = 1

    def write() -> bool:
        taken[:] = 2
        return True

    assert in_child(write, lambda: None)
    assert (taken == 1).all()
    slot.close()


def test_after_a_fork_the_file_is_another_thing() -> None:
    slot = Slot.create(SIZE)
    other = Slot(os.dup(slot.descriptor))  # as the agent has it
    taken = slot.take(PAGESIZE, PAGESIZE)
    taken[:] = 5
    assert (other.memory[PAGESIZE : 2 * PAGESIZE] == 5).all()
    assert in_child(lambda: True, lambda: None)
    taken[:] = 6
    assert not other.memory[PAGESIZE : 2 * PAGESIZE].any()  # its pages went back to the system
    other.memory[:] = 7
    assert (taken == 6).all()
    other.close()
    slot.close()


def test_the_rest_goes_back_to_the_system_and_what_was_taken_stays() -> None:
    slot = Slot.create(SIZE)
    slot.memory[:] = 3
    first, second = slot.take(10 * PAGESIZE, 2 * PAGESIZE), slot.take(12 * PAGESIZE, 100)
    assert pages_of(slot) == 64
    slot.give_back()
    assert pages_of(slot) == 3
    assert (first == 3).all()
    assert (second == 3).all()
    slot.give_back()
    assert pages_of(slot) == 3
    slot.close()


def test_no_write_of_another_thread_is_lost_by_a_fork() -> None:
    for _ in range(20):
        slot = Slot.create(SIZE)
        taken = slot.take(0, SIZE)
        taken[:] = 0
        counted, over = [0], threading.Event()

        def write(
            taken: np.ndarray = taken, counted: list[int] = counted, over: threading.Event = over
        ) -> None:
            while not over.is_set():
                np.add(taken, 1, out=taken)
                counted[0] += 1

        thread = threading.Thread(target=write)
        thread.start()
        while counted[0] < 10:
            pass
        assert in_child(lambda: True, lambda: None)
        over.set()
        thread.join()
        assert (taken == counted[0] % 256).all()
        slot.close()


def test_it_goes_with_what_lives_in_it() -> None:
    gc.collect()
    before, known = descriptors(), len(unsharing._all_taken)
    slot = Slot.create(SIZE)
    taken = slot.take(0, PAGESIZE)
    slot.close()
    del slot
    assert len(unsharing._all_taken) == known + 1
    taken[:] = 1
    del taken
    gc.collect()
    assert len(unsharing._all_taken) == known
    assert descriptors() == before


def test_after_a_fork_the_file_holds_nothing_of_it() -> None:
    slot = Slot.create(SIZE)
    taken = slot.take(0, 4 * PAGESIZE)
    taken[:] = 1
    slot.give_back()
    assert pages_of(slot) == 4
    assert in_child(lambda: True, lambda: None)
    assert pages_of(slot) == 0
    assert (taken == 1).all()
    slot.close()


def test_on_a_system_that_copies_page_by_page_nothing_is_lost(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(linux, "_MADV_POPULATE_WRITE", 9999)  # as of a kernel before 5.14
    slot = Slot.create(SIZE)
    taken = slot.take(0, SIZE)
    taken[:] = 1

    def write() -> None:
        taken[:PAGESIZE] = 2

    assert in_child(lambda: bool((taken == 1).all()), write)
    assert (taken[:PAGESIZE] == 2).all()
    assert (taken[PAGESIZE:] == 1).all()
    slot.close()


STRETCHES = st.lists(
    st.tuples(st.integers(0, SIZE - 1), st.integers(1, SIZE)).map(
        lambda pair: Stretch(pair[0], min(pair[0] + pair[1], SIZE))
    ),
    max_size=8,
)


@given(STRETCHES)
def test_pages_are_those_of_the_stretches_and_the_rest_is_between(stretches: list[Stretch]) -> None:
    wanted = np.zeros(SIZE // PAGESIZE, bool)
    for start, stop in stretches:
        wanted[start // PAGESIZE : -(-stop // PAGESIZE)] = True
    held = in_pages(stretches)
    found = np.zeros_like(wanted, int)
    for start, stop in held:
        found[start // PAGESIZE : stop // PAGESIZE] += 1
    assert (found == wanted).all()
    for start, stop in between(held, SIZE):
        found[start // PAGESIZE : stop // PAGESIZE] += 1
    assert (found == 1).all()
