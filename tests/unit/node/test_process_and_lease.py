from __future__ import annotations

import errno
import os
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import msgspec
import pytest

from holdfast.domain.failures import Reliability
from holdfast.domain.intervals import Choice
from holdfast.errors import BusyError, StorageError
from holdfast.node import lease
from holdfast.node.lease import LEASE_SECONDS, LeaseRecord
from holdfast.node.process import ProcessIdentity
from simulated_store import SimulatedDisk, SimulatedStore

FOLDER = "runs/digits/leases/"
WHO = "from holdfast.node.process import ProcessIdentity as P; import msgspec, sys\n"
TELL = (
    WHO + "sys.stdout.buffer.write(msgspec.json.encode(P.of_this_process()) + b'\\n'); sys.stdout.flush()\n"
)


@pytest.fixture
def other() -> Iterator[tuple[subprocess.Popen[bytes], ProcessIdentity]]:
    """Another process, alive, that has said who it is."""
    program = [sys.executable, "-c", TELL + "sys.stdin.read()"]
    with subprocess.Popen(program, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as process:
        assert process.stdout is not None
        yield process, msgspec.json.decode(process.stdout.readline(), type=ProcessIdentity)
        process.kill()


def me() -> ProcessIdentity:
    return ProcessIdentity.of_this_process()


def hold(store: SimulatedStore, holder: ProcessIdentity, name: str = "000001-00000000") -> str:
    key = f"{FOLDER}{name}.json"
    store.put(key, [msgspec.json.encode(LeaseRecord(holder, store.now_seconds()))])
    return key


def refused(store: SimulatedStore) -> bool:
    try:
        lease.refuse_if_held(store, FOLDER, "The run digits")
    except BusyError:
        return True
    assert list(store.list(FOLDER)) == []  # what the dead left is tidied away
    return False


def test_this_process_lives_and_knows_itself() -> None:
    assert me() == me()
    assert me().is_this_process()
    assert me().visible()
    assert not me().provably_dead()
    assert str(me()) == f"process {os.getpid()} on {socket.gethostname()}"


def test_another_process_lives_until_it_is_killed(
    other: tuple[subprocess.Popen[bytes], ProcessIdentity],
) -> None:
    process, identity = other
    assert identity.pid == process.pid
    assert not identity.provably_dead()
    assert not identity.is_this_process()
    process.kill()
    state = Path(f"/proc/{process.pid}/stat")
    deadline = time.monotonic() + 10
    while state.read_text().rpartition(")")[2].split()[0] != "Z" and time.monotonic() < deadline:
        time.sleep(0.01)
    assert identity.provably_dead()  # a zombie: nobody has waited for it yet
    process.wait()
    assert identity.provably_dead()


def test_a_stopped_process_is_alive(other: tuple[subprocess.Popen[bytes], ProcessIdentity]) -> None:
    process, identity = other
    process.send_signal(19)
    assert not identity.provably_dead()


def test_a_reused_pid_is_somebody_else() -> None:
    before = msgspec.structs.replace(me(), started_seconds=me().started_seconds - 1)
    assert before.provably_dead()
    assert not before.is_this_process()


def test_the_same_process_started_at_the_same_time_whoever_asks(
    other: tuple[subprocess.Popen[bytes], ProcessIdentity],
) -> None:
    _, identity = other
    code = WHO + "print(msgspec.json.decode(sys.argv[1], type=P).provably_dead())"
    asked = subprocess.run(
        [sys.executable, "-c", code, msgspec.json.encode(identity).decode()],
        capture_output=True,
        text=True,
        check=True,
    )
    assert asked.stdout.strip() == "False"


def test_a_machine_that_was_renamed_is_the_same_machine() -> None:
    renamed = msgspec.structs.replace(me(), host="formerly")
    assert not renamed.provably_dead()
    assert renamed.is_this_process()
    assert msgspec.structs.replace(renamed, started_seconds=1.0).provably_dead()


def test_another_boot_of_this_machine_is_dead_and_another_machine_unknown() -> None:
    assert msgspec.structs.replace(me(), boot="b").provably_dead()
    assert not msgspec.structs.replace(me(), boot="b", host="elsewhere").provably_dead()
    assert not msgspec.structs.replace(me(), pid_namespace="pid:[1]", pid=1).provably_dead()
    assert not msgspec.structs.replace(me(), pid_namespace="pid:[1]").visible()


def test_the_same_process_may_take_its_run_again() -> None:
    store = SimulatedStore()
    lease.take(store, f"{FOLDER}000001-00000000.json")
    assert not refused(store)


def test_a_dead_holder_is_not_in_the_way_and_a_living_one_is(
    other: tuple[subprocess.Popen[bytes], ProcessIdentity],
) -> None:
    process, identity = other
    store = SimulatedStore()
    hold(store, identity)
    with pytest.raises(BusyError, match=f"process {process.pid} on {socket.gethostname()}"):
        lease.refuse_if_held(store, FOLDER, "The run digits")
    assert lease.holders(store, FOLDER) == [identity]
    store.disk.advance(10 * LEASE_SECONDS)  # that it is alive can be seen: no clock matters
    assert refused(store)
    process.kill()
    process.wait()
    assert not refused(store)


def test_one_dead_and_one_living_holder(other: tuple[subprocess.Popen[bytes], ProcessIdentity]) -> None:
    store = SimulatedStore()
    hold(store, msgspec.structs.replace(me(), started_seconds=1.0), "000001-00000000")
    hold(store, other[1], "000002-00000000")
    assert refused(store)
    assert lease.holders(store, FOLDER) == [other[1]]


@pytest.mark.parametrize(
    "changes",
    [{"pid_namespace": "pid:[1]"}, {"host": "elsewhere", "boot": "b"}],
    ids=["container", "machine"],
)
def test_a_holder_out_of_sight_counts_until_it_is_silent_for_long(changes: dict[str, str]) -> None:
    store = SimulatedStore()
    key = hold(store, msgspec.structs.replace(me(), **changes))
    store.disk.advance(LEASE_SECONDS - 1)
    assert refused(store)
    store.put(key, [store.get(key)])  # it renews
    store.disk.advance(LEASE_SECONDS - 1)
    assert refused(store)
    store.disk.advance(2)
    assert not refused(store)


def test_a_rebooted_machine_is_not_in_its_own_way() -> None:
    store = SimulatedStore()
    hold(store, msgspec.structs.replace(me(), boot="before"))
    assert not refused(store)


def test_an_unreadable_lease_holds_nothing() -> None:
    store = SimulatedStore()
    for number, data in enumerate((b"", b"{", b"\xff", b'{"holder": 1}')):
        store.put(f"{FOLDER}{number}.json", [data])
    assert not refused(store)


def test_a_lease_says_how_far_apart_saves_are_as_soon_as_that_is_known() -> None:
    store = SimulatedStore(SimulatedDisk())
    held = lease.take(store, f"{FOLDER}000001-00000000.json")
    choice = Choice(60.0, 10.0, 0.1, Reliability(2, 3600.0))
    held.renew_if_old(lambda: None)
    assert [record.saving for record in lease.live(store, FOLDER)] == [None]
    held.renew_if_old(lambda: choice)
    assert [record.saving for record in lease.live(store, FOLDER)] == [choice]
    held.renew_if_old(lambda: None)  # not old: it is not written at every step
    assert [record.saving for record in lease.live(store, FOLDER)] == [choice]


def test_a_lease_is_renewed_as_time_passes_and_ends_with_release(monkeypatch: pytest.MonkeyPatch) -> None:
    store = SimulatedStore(SimulatedDisk())
    key = f"{FOLDER}000001-00000000.json"
    held = lease.take(store, key)
    held.renew_if_old(lambda: None)
    store.disk.advance(100)
    later = time.monotonic() + LEASE_SECONDS / 2
    monkeypatch.setattr(lease.time, "monotonic", lambda: later)
    held.renew_if_old(lambda: None)
    stat = store.stat(key)
    assert stat is not None
    assert stat.modified_seconds == store.now_seconds()
    held.release()
    assert store.stat(key) is None
    held.release()  # again: no error


def test_who_may_not_delete_gives_the_run_back_all_the_same(
    other: tuple[subprocess.Popen[bytes], ProcessIdentity], monkeypatch: pytest.MonkeyPatch
) -> None:
    store = SimulatedStore(SimulatedDisk())
    held = lease.take(store, f"{FOLDER}a.json")

    def denied(key: str) -> None:
        raise StorageError("No.", errno=errno.EACCES)

    monkeypatch.setattr(store, "delete", denied)
    record = msgspec.json.decode(store.get(f"{FOLDER}a.json"), type=LeaseRecord)
    elsewhere = msgspec.structs.replace(record, holder=other[1])  # seen by somebody else, who lives
    store.put(f"{FOLDER}a.json", [msgspec.json.encode(elsewhere)])
    with pytest.raises(BusyError):
        lease.refuse_if_held(store, FOLDER, "The run digits")
    held.release()
    assert msgspec.json.decode(store.get(f"{FOLDER}a.json"), type=LeaseRecord).given_back
    store.put(f"{FOLDER}a.json", [msgspec.json.encode(msgspec.structs.replace(elsewhere, given_back=True))])
    lease.refuse_if_held(store, FOLDER, "The run digits")
    assert lease.holders(store, FOLDER) == []


def test_locks_of_different_runs_differ() -> None:
    assert lease.claim_lock_name("a") != lease.claim_lock_name("b")
    assert "/" not in lease.claim_lock_name("sweep/lr3")
