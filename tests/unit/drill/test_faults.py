"""Faults by their names, and what they do to files and processes."""

from __future__ import annotations

import os
import resource
import signal
import subprocess
import sys
from pathlib import Path

import pytest
from tests.integration.training.launching import wait_until

from checkpoints import begin, make_repository, read, save
from holdfast.domain.names import CheckpointId
from holdfast.drill.faults.held import held
from holdfast.drill.faults.registry import ALWAYS, FAULTS, chosen
from holdfast.drill.faults.storage import BitRot, TornPack, newest_copy, no_room
from holdfast.errors import DamagedError, HoldfastError, UsageError
from holdfast.node import groups
from holdfast.repository import layout
from holdfast.repository.repository import Repository
from holdfast.repository.run import Run
from holdfast.storage.local import LocalStorage


def test_names_choose() -> None:
    assert [fault.name for fault in chosen("kill, hang,kill")] == ["kill", "hang"]
    assert [fault.name for fault in chosen(None)] == list(ALWAYS)
    assert all(fault.name == name and fault.meaning for name, fault in FAULTS.items())


@pytest.mark.parametrize("names", ["", "kill,meteor"])
def test_what_is_no_fault_is_refused_with_all_that_are(names: str) -> None:
    with pytest.raises(UsageError, match="Choose from: kill, stop"):
        chosen(names)


@pytest.fixture
def run(tmp_path: Path) -> Run:
    run = make_repository(LocalStorage(tmp_path / "r", create=True)).run("digits")
    attempt = begin(run)
    for number in (1, 2, 3):
        save(run, attempt, number, number * 10)
    return run


@pytest.mark.parametrize("fault", [BitRot(), TornPack()])
def test_damage_hits_the_newest_checkpoint_alone(run: Run, tmp_path: Path, fault: BitRot) -> None:
    copy = newest_copy(run.repository)
    fault.damage(tmp_path / "r" / layout.pack(copy.pack), copy)
    again = Repository.open(LocalStorage(tmp_path / "r")).run("digits")
    newest, *others = again.lineage()
    assert not is_whole(again, newest)
    assert all(is_whole(again, other) for other in others)


def is_whole(run: Run, checkpoint: CheckpointId) -> bool:
    try:
        return bool(read(run, checkpoint))
    except DamagedError:
        return False


def test_with_one_checkpoint_there_is_nothing_to_fall_back_on(tmp_path: Path) -> None:
    run = make_repository(LocalStorage(tmp_path / "one", create=True)).run("digits")
    save(run, begin(run), 1, 10)
    with pytest.raises(HoldfastError, match="no checkpoint to fall back on"):
        newest_copy(run.repository)


INSIDE = Path(sys.modules[BitRot.__module__].__file__ or "").parents[1] / "inside"


def with_inside(name: str, code: str, *more: str) -> subprocess.CompletedProcess[str]:
    """A Python that does something to itself, asked by itself."""
    path = os.pathsep.join([str(INSIDE), *more])
    return subprocess.run(
        [sys.executable, "-c", code],
        env=os.environ | {"PYTHONPATH": path, "HOLDFAST_DRILL": f"kill:1,{name}:{int(signal.SIGRTMIN) + 6}"},
        capture_output=True,
        text=True,
        check=False,
        timeout=60,
    )


ASK = "import os, signal; os.kill(os.getpid(), signal.SIGRTMIN + 6)\n"


def test_a_segfault_is_one() -> None:
    assert with_inside("segfault", ASK).returncode == -signal.SIGSEGV


def test_memory_ends_in_an_error_that_can_be_told() -> None:
    done = with_inside("memory", f"try:\n    {ASK}except MemoryError:\n    print('none left')")
    assert done.stdout == "none left\n"


def test_what_hangs_does_not_even_run_another_thread() -> None:
    code = "import threading, time, os\nthreading.Timer(1, lambda: os._exit(7)).start()\n" + ASK
    process = subprocess.Popen(
        [sys.executable, "-c", code],
        env=os.environ | {"PYTHONPATH": str(INSIDE), "HOLDFAST_DRILL": f"hang:{int(signal.SIGRTMIN) + 6}"},
    )
    try:
        with pytest.raises(subprocess.TimeoutExpired):
            process.wait(4)
    finally:
        process.kill()
        process.wait()


def test_gradients_are_spoilt_once() -> None:
    code = """
import os, signal, torch
weight = torch.nn.Parameter(torch.ones(3))
optimizer = torch.optim.SGD([weight], lr=0.0)
os.kill(os.getpid(), signal.SIGRTMIN + 6)
for _ in range(2):
    weight.grad = torch.ones(3)
    optimizer.step()
    print(weight.grad.isnan().all().item())
"""
    assert with_inside("nan", code).stdout.split() == ["True", "False"]


@pytest.mark.paddle
def test_gradients_of_paddle_are_spoilt_once_though_steps_are_watched() -> None:
    code = """
import os, signal, paddle
from holdfast.frameworks.paddle.stepping import watch_steps
weight = paddle.create_parameter([3], "float32")
optimizer = paddle.optimizer.AdamW(0.0, parameters=[weight])
watch_steps([optimizer], lambda: None)
os.kill(os.getpid(), signal.SIGRTMIN + 6)
for _ in range(2):
    weight.sum().backward()
    optimizer.step()
    print(weight.grad.isnan().all().item())
    optimizer.clear_grad()
"""
    done = with_inside("nan", code, str(INSIDE.parents[2]))  # whose holdfast is that of this test
    assert done.stdout.split() == ["True", "False"], done.stderr


def test_the_sitecustomize_that_it_stands_before_is_loaded_too(tmp_path: Path) -> None:
    (tmp_path / "sitecustomize.py").write_text("import builtins; builtins.theirs = 1")
    assert with_inside("kill", "print(theirs)", str(tmp_path)).stdout == "1\n"


def test_files_can_be_limited_and_set_free() -> None:
    with subprocess.Popen(["sleep", "60"]) as process:
        before = resource.prlimit(process.pid, resource.RLIMIT_FSIZE)
        afterwards = no_room([process.pid])
        assert resource.prlimit(process.pid, resource.RLIMIT_FSIZE) == (0, before[1])
        afterwards.now()
        assert resource.prlimit(process.pid, resource.RLIMIT_FSIZE) == (before[1], before[1])
        process.kill()
    no_room([process.pid]).now()  # it is dead: nothing to limit


def test_what_is_held_goes_on_afterwards() -> None:
    with subprocess.Popen(["sleep", "60"]) as process:
        with held(process.pid):
            assert wait_until(lambda: groups.is_paused(process.pid))
        assert wait_until(lambda: not groups.is_paused(process.pid))
        process.kill()


def test_what_is_held_goes_on_when_its_holder_is_killed() -> None:
    code = "import sys, time\nfrom holdfast.drill.faults import held\n"
    code += "held.hold([int(sys.argv[1])])\ntime.sleep(60)"
    with (
        subprocess.Popen(["sleep", "60"]) as process,
        subprocess.Popen([sys.executable, "-c", code, str(process.pid)]) as holder,
    ):
        assert wait_until(lambda: groups.is_paused(process.pid))
        holder.kill()
        assert wait_until(lambda: not groups.is_paused(process.pid))
        process.kill()
