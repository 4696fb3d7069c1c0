"""Real processes on one local repository: savers, a pruner, readers, and a zombie that was asleep."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from checkpoints import begin, make_repository, make_state, orphans, prune, read, save
from holdfast.repository.repository import Repository
from holdfast.repository.run import Run
from holdfast.storage.local import LocalStorage

TESTS = Path(__file__).parents[1]
SECONDS = 3.0

SETUP = """
import sys, time, os, signal
sys.path.insert(0, {tests!r})
from pathlib import Path
from checkpoints import *
from holdfast.domain.names import CheckpointId
from holdfast.errors import *
from holdfast.repository.repository import Repository
from holdfast.repository.retention import packs_of, sweep
from holdfast.storage.local import LocalStorage
storage = LocalStorage({root!r})
run = Repository.open(storage).run({run!r})
until = time.monotonic() + {seconds}
"""

SAVER = """
attempt, made = begin(run), None
for number in range(1, 10_000):
    made = save(run, attempt, number, number, parent=made).id
    if number % 3 == 0:
        assert not prune(run, 2, attempt, wait_seconds=2.0).busy
    print(made, flush=True)
    if time.monotonic() > until:
        break
"""

READER = """
count = 0
while time.monotonic() < until:
    reader = Repository.open(storage).run({run!r}) if count % 2 else run
    latest = reader.latest()
    if latest is None:
        continue
    try:
        assert read(reader, latest) == make_state(latest.step)
        count += 1
    except NotFoundError:
        pass  # removed between the choice and the lock
print(count)
"""

SWEEPER = """
while time.monotonic() < until:
    sweep(run.repository, wait_seconds=0.05)
    time.sleep(0.02)
print("swept")
"""


def start(body: str, root: Path, run: str = "digits", seconds: float = SECONDS) -> subprocess.Popen[str]:
    code = (SETUP + body).format(tests=str(TESTS), root=str(root), run=run, seconds=seconds)
    return subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, text=True)


def finish(process: subprocess.Popen[str]) -> list[str]:
    output, _ = process.communicate(timeout=60)
    assert process.returncode == 0
    return output.split()


@pytest.fixture
def root(tmp_path: Path) -> Path:
    make_repository(LocalStorage(tmp_path / "repository", create=True))
    return tmp_path / "repository"


def opened(root: Path, run: str = "digits") -> Run:
    return Repository.open(LocalStorage(root)).run(run)


def test_savers_pruners_and_readers_at_once(root: Path) -> None:
    """Two runs that share chunks, each pruning; readers, and somebody who sweeps all the time."""
    savers = [start(SAVER, root), start(SAVER, root, "other")]
    others = [start(READER, root), start(READER, root, "other"), start(SWEEPER, root)]
    saved = [finish(process) for process in savers]
    first, second, swept = (finish(process) for process in others)
    assert int(first[0]) + int(second[0]) >= 5
    assert swept == ["swept"]
    for name, made in zip(("digits", "other"), saved, strict=True):
        run = opened(root, name)
        latest = run.latest()
        assert str(latest) == made[-1]
        assert len(made) >= 5
        assert len(run.all_checkpoints()) <= 5
        for checkpoint in run.all_checkpoints():
            assert read(run, checkpoint) == make_state(checkpoint.step)
    assert list(LocalStorage(root).list("damaged/")) == []


COMPACTOR = """
from holdfast.repository import compact
done = 0
while time.monotonic() < until:
    repository = Repository.open(storage)
    try:
        done += compact.apply(compact.plan(repository), wait_seconds=1.0).packs_written
        print(done, flush=True)
    except BusyError:
        pass
"""


def test_compaction_beside_savers_pruners_and_readers(root: Path) -> None:
    savers = [start(SAVER, root), start(SAVER, root, "other")]
    others = [start(body, root) for body in (READER, SWEEPER, COMPACTOR, COMPACTOR)]
    saved = [finish(process) for process in savers]
    reads, _, first, second = (finish(process) for process in others)
    assert int(reads[0]) >= 3
    assert int(first[-1]) + int(second[-1]) >= 2
    for name, made in zip(("digits", "other"), saved, strict=True):
        run = opened(root, name)
        assert str(run.latest()) == made[-1]
        for checkpoint in run.all_checkpoints():
            assert read(run, checkpoint) == make_state(checkpoint.step)
    assert list(LocalStorage(root).list("damaged/")) == []


def test_compactors_killed_at_random_beside_a_saver(root: Path) -> None:
    saver = start(SAVER, root, seconds=2 * SECONDS)
    for turn in range(4):
        process = start(COMPACTOR, root, seconds=30)
        assert process.stdout is not None
        process.stdout.readline()
        time.sleep(0.011 * turn)
        process.kill()
        process.communicate()
    made = finish(saver)
    run = opened(root)
    assert str(run.latest()) == made[-1]
    for checkpoint in run.all_checkpoints():
        assert read(run, checkpoint) == make_state(checkpoint.step)
    assert list(LocalStorage(root).list("damaged/")) == []
    successor = begin(run)
    save(run, successor, 1, 1)
    prune(run, 1, successor, sweep=True)
    assert orphans(run.repository) == set()


ZOMBIE = """
import holdfast.repository.commit as commit
publish = commit._publish
def sleepy(*arguments):
    print("asleep", flush=True)
    os.kill(os.getpid(), signal.SIGSTOP)
    return publish(*arguments)
attempt = begin(run)
for number in (1, 2):
    save(run, attempt, number, number)
commit._publish = sleepy
run.repository.dependable |= packs_of(run, run.latest())
print(save(run, attempt, 3, 3).id, flush=True)
commit._publish = publish
assert not run.is_highest(attempt)
assert prune(run, 1, attempt).checkpoints == []
"""


def test_a_zombie_that_wakes_up_after_its_successor_harms_nobody(root: Path) -> None:
    """It was stopped in the middle of a save, holding the lock that keeps its packs in place."""
    zombie = start(ZOMBIE, root)
    assert zombie.stdout is not None
    assert zombie.stdout.readline() == "asleep\n"
    run = opened(root)
    base = run.latest()
    assert base is not None
    successor = begin(run)
    made = [save(run, successor, number, 10 + number).id for number in (1, 2, 3)]
    assert prune(run, 1, successor).busy  # nothing is deleted under a saver, even one asleep
    zombie.send_signal(signal.SIGCONT)
    late = finish(zombie)[0]
    run = opened(root)
    assert run.latest() == made[-1]
    assert late in {str(c) for c in run.checkpoints()}
    assert late not in {str(c) for c in run.lineage()}
    for checkpoint in run.all_checkpoints():
        assert read(run, checkpoint) == make_state(checkpoint.step)
    prune(run, 1, successor, sweep=True)
    assert run.all_checkpoints() == made[-1:]
    assert orphans(run.repository) == set()


def test_a_killed_saver_lets_go_of_the_lock_at_once(root: Path) -> None:
    zombie = start(ZOMBIE, root)
    assert zombie.stdout is not None
    assert zombie.stdout.readline() == "asleep\n"
    run = opened(root)
    successor = begin(run)
    last = save(run, successor, 1, 11).id
    zombie.kill()
    zombie.communicate()
    assert zombie.returncode == -signal.SIGKILL
    assert not prune(run, 1, successor, sweep=True).busy
    assert run.all_checkpoints() == [last]
    assert orphans(run.repository) == set()


LAUNCHER = """
while time.time() < {start}:
    time.sleep(0.001)
print(run.begin_attempt())
"""


def test_launches_at_the_same_moment_get_different_numbers(root: Path) -> None:
    body = LAUNCHER.replace("{start}", str(time.time() + 1.5))
    processes = [start(body, root) for _ in range(4)]
    numbers = [finish(process)[0].partition("-")[0] for process in processes]
    assert len(set(numbers)) == len(numbers)


def test_savers_killed_at_random_leave_a_repository_that_works(root: Path) -> None:
    for turn in range(3):
        process = start(SAVER, root, seconds=30)
        assert process.stdout is not None
        told = [process.stdout.readline().strip() for _ in range(2 + turn)]
        time.sleep(0.003 * turn)
        os.kill(process.pid, signal.SIGKILL)
        rest, _ = process.communicate()
        told += rest.split("\n")[:-1]
        run = opened(root)
        latest = run.latest()
        assert latest is not None
        assert latest.order >= max(c.order for c in run.checkpoints() if str(c) in told)
        assert read(run, latest) == make_state(latest.step)
    successor = begin(run)
    save(run, successor, 1, 1)
    prune(run, 1, successor, sweep=True)
    assert orphans(run.repository) == set()
