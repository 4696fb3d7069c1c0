"""The lease of a live run in real launches: kept fresh, given back, taken from the dead and the expired."""

from __future__ import annotations

import os
import signal
import time
from pathlib import Path

import msgspec
import pytest
from tests.integration.training.launching import Tell, at, count, launch, run_of, steps_in, wait_until

import holdfast
from holdfast.node import lease
from holdfast.node.lease import LeaseRecord
from holdfast.node.process import ProcessIdentity


def lease_files(repository: Path, run: str = "main") -> list[Path]:
    return sorted((repository / run_of(repository, run).layout.leases).glob("*"))


def rewrite(path: Path, *, age_seconds: float, **holder: object) -> None:
    """As if another machine had written it so long ago."""
    record = msgspec.json.decode(path.read_bytes(), type=LeaseRecord)
    changed: ProcessIdentity = msgspec.structs.replace(record.holder, **holder)
    path.write_bytes(msgspec.json.encode(LeaseRecord(changed, record.taken_seconds)))
    then = time.time() - age_seconds
    os.utime(path, (then, then))


def leave_lease_of_the_dead(repository: Path) -> None:
    die = at(2, lambda _: os.kill(os.getpid(), signal.SIGKILL))
    assert launch(lambda _: count(repository, each=die) and None).wait() == -signal.SIGKILL


def test_it_is_held_while_training_and_given_back_at_every_kind_of_end(tmp_path: Path) -> None:
    held: list[int] = []
    count(tmp_path, until=2, each=lambda *_: held.append(len(lease_files(tmp_path))))
    assert held == [1, 1]
    assert lease_files(tmp_path) == []
    with pytest.raises(ZeroDivisionError):
        count(tmp_path, until=4, each=lambda *_: 1 // 0)
    assert lease_files(tmp_path) == []
    with pytest.raises(holdfast.NotFoundError):
        count(tmp_path, resume="nonsense")
    assert lease_files(tmp_path) == []


@pytest.mark.parametrize(
    ("age_seconds", "refused"), [(0, True), (lease.LEASE_SECONDS * 0.9, True), (400, False)]
)
def test_a_holder_on_another_machine_is_believed_until_its_lease_expires(
    age_seconds: float, refused: bool, tmp_path: Path
) -> None:
    leave_lease_of_the_dead(tmp_path)
    (path,) = lease_files(tmp_path)
    rewrite(path, age_seconds=age_seconds, host="elsewhere", boot="another", pid_namespace="pid:[1]")
    if refused:
        with pytest.raises(holdfast.BusyError, match="on elsewhere"):
            count(tmp_path)
        assert path.exists()
    else:
        count(tmp_path)
        assert not path.exists()


def test_a_reused_process_id_is_nobody(tmp_path: Path) -> None:
    leave_lease_of_the_dead(tmp_path)
    rewrite(lease_files(tmp_path)[0], age_seconds=0, pid=os.getppid())
    count(tmp_path)


def test_a_damaged_lease_holds_nobody_up(tmp_path: Path) -> None:
    def damage(ckpt: holdfast.Checkpointer) -> None:
        for path in lease_files(tmp_path):
            path.write_bytes(b"nonsense")

    process = launch(
        lambda tell: count(tmp_path, each=at(2, lambda c: (damage(c), os.kill(os.getpid(), 9)))) and None
    )
    assert process.wait() == -signal.SIGKILL
    count(tmp_path)


def test_training_keeps_it_fresh(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(lease, "LEASE_SECONDS", 0.4)
    ages: list[float] = []

    def each(ckpt: holdfast.Checkpointer, t: int) -> None:
        time.sleep(0.05)
        ages.append(time.time() - lease_files(tmp_path)[0].stat().st_mtime)

    count(tmp_path, until=20, save=None, each=each)
    assert max(ages) < 0.35


def test_of_many_launches_at_once_one_trains(tmp_path: Path) -> None:
    def train(tell: Tell) -> None:
        try:
            with holdfast.Checkpointer(tmp_path, {"a": 1}, save="every 1 step") as ckpt:
                tell("trains")
                for _ in ckpt.steps(4):
                    time.sleep(0.1)
        except holdfast.BusyError as error:
            tell(f"busy {error}")

    processes = [launch(train) for _ in range(4)]
    said = [process.heard() for process in processes]
    assert [process.wait() for process in processes] == [0, 0, 0, 0]
    assert said.count("trains") == 1
    winner = processes[said.index("trains")]
    assert all(f"process {winner.pid} on" in line for line in said if line != "trains")
    assert steps_in(tmp_path)[-1] == 4


def test_runs_of_one_repository_train_side_by_side(tmp_path: Path) -> None:
    keep = "last 2"
    processes = [
        launch(lambda _, run=run: count(tmp_path, until=15, run=run, save="every 1 step", keep=keep) and None)
        for run in ("a", "b", "b/c")
    ]
    assert [process.wait() for process in processes] == [0, 0, 0], [p.said for p in processes]
    for run in ("a", "b", "b/c"):
        assert steps_in(tmp_path, run)[-1] == 15
        for checkpoint in holdfast.open(tmp_path)[run]:
            checkpoint.verify()
    assert wait_until(lambda: not any(lease_files(tmp_path, run) for run in ("a", "b", "b/c")))
