"""The simulated store must fail exactly as told, or what is proved with it proves nothing."""

from __future__ import annotations

from functools import partial

import pytest

from holdfast.errors import StorageError
from simulated_store import Fault, SimulatedCrash, SimulatedDisk, SimulatedStore

CRASHES = [Fault.CRASH_BEFORE, Fault.CRASH_TORN, Fault.CRASH_UNSYNCED, Fault.CRASH_AFTER]
FAILURES = [Fault.FAIL_BEFORE, Fault.FAIL_UNSYNCED, Fault.FAIL_AFTER]


def contents(disk: SimulatedDisk) -> dict[str, bytes]:
    store = SimulatedStore(disk)
    return {key: store.get(key) for key in store.list("")}


@pytest.mark.parametrize(
    ("fault", "seen", "survives"),
    [
        (Fault.CRASH_BEFORE, False, False),
        (Fault.CRASH_TORN, False, False),
        (Fault.CRASH_UNSYNCED, True, False),
        (Fault.CRASH_AFTER, True, True),
        (Fault.FAIL_BEFORE, False, False),
        (Fault.FAIL_UNSYNCED, True, False),
        (Fault.FAIL_AFTER, True, True),
    ],
)
@pytest.mark.parametrize("conditional", [False, True])
def test_a_faulty_write(fault: Fault, seen: bool, survives: bool, conditional: bool) -> None:
    disk = SimulatedDisk()
    store = SimulatedStore(disk, faults={1: fault})
    store.put("first", [b"1"])
    write = (
        partial(store.put_if_absent, data=b"22") if conditional else partial(store.put, parts=[b"2", b"2"])
    )
    with pytest.raises(SimulatedCrash if fault in CRASHES else StorageError):
        write("second")
    expected = {"first": b"1", "second": b"22"}
    assert contents(disk) == (expected if seen else {"first": b"1"})
    disk.lose_power()
    assert contents(disk) == (expected if survives else {"first": b"1"})


@pytest.mark.parametrize("fault", [Fault.CRASH_UNSYNCED, Fault.FAIL_UNSYNCED])
def test_an_unsynced_deletion_comes_back(fault: Fault) -> None:
    disk = SimulatedDisk()
    store = SimulatedStore(disk, faults={1: fault})
    store.put("a", [b"x"])
    with pytest.raises((SimulatedCrash, StorageError)):
        store.delete("a")
    assert contents(disk) == {}
    disk.lose_power()
    assert contents(disk) == {"a": b"x"}


@pytest.mark.parametrize("fault", CRASHES)
def test_the_dead_do_nothing(fault: Fault) -> None:
    store = SimulatedStore(faults={0: fault})
    with pytest.raises(SimulatedCrash):
        store.put("a", [b"x"])
    for use in (lambda: store.get("a"), lambda: store.put("b", [b"x"]), lambda: list(store.list(""))):
        with pytest.raises(SimulatedCrash):
            use()
    assert not isinstance(SimulatedCrash(), Exception)


@pytest.mark.parametrize("fault", FAILURES)
def test_a_failed_read_is_an_error(fault: Fault) -> None:
    store = SimulatedStore(faults={0: fault})
    with pytest.raises(StorageError):
        store.stat("a")
    assert store.stat("a") is None


def test_finding_an_unsynced_object_makes_it_durable() -> None:
    disk = SimulatedDisk()
    with pytest.raises(StorageError):
        SimulatedStore(disk, faults={0: Fault.FAIL_UNSYNCED}).put_if_absent("a", b"x")
    assert SimulatedStore(disk).put_if_absent("a", b"y") is False
    disk.lose_power()
    assert contents(disk) == {"a": b"x"}


def test_listings_lag() -> None:
    disk = SimulatedDisk(list_lag_seconds=10)
    store = SimulatedStore(disk)
    store.put("a", [b"x"])
    assert list(store.list("")) == []
    assert store.get("a") == b"x"
    disk.advance(10)
    assert list(store.list("")) == ["a"]
    store.put("a", [b"again"])
    assert list(store.list("")) == ["a"]
    store.delete("a")
    assert list(store.list("")) == ["a"]
    disk.advance(10)
    assert list(store.list("")) == []


def test_another_store_acts_in_between() -> None:
    disk = SimulatedDisk()
    pruner = SimulatedStore(disk)

    def prune(number: int, verb: str, key: str) -> None:
        if verb == "stat":
            pruner.delete(key)

    saver = SimulatedStore(disk, before=prune)
    saver.put("a", [b"x"])
    assert saver.stat("a") is None
    assert saver.log == [("put", "a"), ("stat", "a")]


def test_time_stands_still_until_told() -> None:
    disk = SimulatedDisk()
    store = SimulatedStore(disk)
    store.put("a", [b"x"])
    first = store.stat("a")
    disk.advance(5)
    assert first is not None
    assert store.now_seconds() - first.modified_seconds == 5


def test_locks_are_an_option() -> None:
    disk = SimulatedDisk(has_locks=True)
    one, other = SimulatedStore(disk), SimulatedStore(disk)
    with one.lock("x", shared=False, wait_seconds=0) as held:
        assert held
        with other.lock("x", shared=False, wait_seconds=0) as second:
            assert not second
    with SimulatedStore().lock("x", shared=False, wait_seconds=0) as held:
        assert not held
