"""Ranks under `holdfast run`, through torchrun: brought back together, and none is left behind."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from holdfast.domain.ranks import of_rank, world_size
from holdfast.node import groups
from holdfast.repository.repository import Repository
from holdfast.repository.run import Run
from holdfast.storage.local import LocalStorage

TRAINEE = Path(__file__).with_name("rank_trainee.py")
PATIENCE_SECONDS = 240


Made = dict[int, list[dict[str, bytes]]]


def run_of(place: Path) -> Run:
    return Repository.open(LocalStorage(place)).run("main")


def made(place: Path) -> Made:
    """What each rank has at each step of the run's line."""
    run, found = run_of(place), {}
    for checkpoint in run.lineage():
        manifest = run.manifest(checkpoint)
        assert world_size(manifest) == 2
        views = [of_rank(manifest, rank) for rank in (0, 1)]
        found[checkpoint.step] = [
            {name: entry.shards[0].chunks for name, entry in view.tensors.items()} for view in views
        ]
    return found


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Made:
    folder = tmp_path_factory.mktemp("whole")
    ranks = [
        subprocess.Popen(
            ["sh", "-c", '"$@"; exit $?', "wrapper", sys.executable, str(TRAINEE), str(folder / "r")],
            env=os.environ | {"RANK": str(rank), "WORLD_SIZE": "2", "LOCAL_WORLD_SIZE": "2"},
        )
        for rank in (0, 1)
    ]
    assert [rank.wait(PATIENCE_SECONDS) for rank in ranks] == [0, 0]
    return made(folder / "r")


Start = Callable[..., subprocess.Popen[bytes]]


@pytest.fixture
def start(tmp_path: Path) -> Start:
    """Start ``holdfast run --nproc-per-node 2 FLAGS -- python rank_trainee.py FAULTS``."""

    def begin(*faults: str, flags: tuple[str, ...] = ()) -> subprocess.Popen[bytes]:
        command = [sys.executable, "-m", "holdfast", "run", "--nproc-per-node", "2", *flags, "--"]
        with (tmp_path / "said.txt").open("ab") as log:
            return subprocess.Popen(
                [*command, sys.executable, str(TRAINEE), str(tmp_path / "r"), *faults],
                env=os.environ | {"OMP_NUM_THREADS": "1", "TRAINEE_OF": str(tmp_path)},
                cwd=tmp_path,
                stdout=log,
                stderr=log,
            )

    return begin


def ended(process: subprocess.Popen[bytes], folder: Path) -> tuple[int, str]:
    code = process.wait(PATIENCE_SECONDS)
    assert groups.given("TRAINEE_OF", str(folder)) == []
    return code, (folder / "said.txt").read_text()


def test_a_killed_rank_and_a_killed_launcher(start: Start, tmp_path: Path, whole: Made) -> None:
    faults = ("1:8:rank", "0:16:launcher")
    code, said = ended(start(*faults, flags=("--on", "node-lost: restart 3")), tmp_path)
    assert code == 0, said
    assert "3 launches (crash, node-lost)" in said
    assert "First to fail: rank 0" not in said  # rank 1 was, unless the launcher was too quick to tell
    again = made(tmp_path / "r")
    assert max(again) == 30
    rules = {step for step in again if step % 5 == 0}  # others were saved as the launcher was lost
    assert {step: again[step] for step in rules} == {step: whole[step] for step in rules}


def test_ranks_of_a_launcher_that_nobody_knows_end_with_it(tmp_path: Path, whole: Made) -> None:
    """As torchrun's are, if it is told 'gpu' instead of a number: each in a session of its own."""
    launcher = TRAINEE.parents[1] / "drill" / "launcher.py"
    words = [sys.executable, str(launcher), str(TRAINEE), str(tmp_path / "r"), "0:16:launcher"]
    done = subprocess.run(
        [sys.executable, "-m", "holdfast", "run", "--", *words],
        env=os.environ | {"TRAINEE_OF": str(tmp_path)},
        cwd=tmp_path,
        capture_output=True,
        text=True,
        check=False,
        timeout=110,
    )
    assert done.returncode == 0, done.stderr
    assert "2 launches (crash)" in done.stderr
    assert groups.given("TRAINEE_OF", str(tmp_path)) == []
    assert made(tmp_path / "r")[30] == whole[30]


@pytest.mark.parametrize("launcher", ["torch", "paddle"])
def test_sigterm_saves_all_ranks_and_leaves_none(start: Start, tmp_path: Path, launcher: str) -> None:
    process = start("0:7:wait", flags=("--launcher", launcher))
    deadline = time.monotonic() + PATIENCE_SECONDS
    while not (tmp_path / "happened-0-7-wait").exists() and process.poll() is None:
        assert time.monotonic() < deadline
        time.sleep(0.02)
    process.send_signal(signal.SIGTERM)
    code, said = ended(process, tmp_path)
    assert code == 143, said
    latest = run_of(tmp_path / "r").latest()
    assert latest is not None
    assert run_of(tmp_path / "r").summary(latest).reason == "SIGTERM"
    assert latest.step in (9, 10)
