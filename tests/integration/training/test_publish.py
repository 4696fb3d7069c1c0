"""Plain files that follow a run, in the background and without it."""

from __future__ import annotations

import fcntl
import json
import os
import shutil
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from safetensors.numpy import load_file
from tests.integration.training.launching import count, wait_until
from tests.integration.training.test_mirror import errands, gone

import holdfast
from holdfast.cli import app
from holdfast.errors import UsageError

PATIENCE_SECONDS = 60.0
LINUX = pytest.mark.skipif(sys.platform != "linux", reason="memory shared without a name is Linux's")
WAYS = [pytest.param(True, marks=LINUX), False]
pytestmark = pytest.mark.timeout(240)


@pytest.fixture(autouse=True)
def no_errand_is_left(tmp_path: Path) -> Any:
    yield
    for process in errands(tmp_path):
        process.kill()


def weights(steps: int) -> Any:
    return np.arange(100) * sum(range(steps))


def shows(path: Path, steps: int) -> bool:
    return path.exists() and bool((load_file(path)["weights"] == weights(steps)).all())


@pytest.mark.parametrize("background", WAYS)
def test_a_file_follows_the_run_and_is_current_at_its_end(tmp_path: Path, background: bool) -> None:
    here, path = tmp_path / "here", tmp_path / "out" / "latest.safetensors"

    def look(ckpt: holdfast.Checkpointer, t: int) -> None:
        if t in (3, 5):
            assert wait_until(lambda: shows(path, 3), PATIENCE_SECONDS)

    count(here, each=look, save="every 3 steps", publish=f"latest -> {path}", background=background)
    assert wait_until(lambda: shows(path, 6), PATIENCE_SECONDS)
    assert gone(here)


@pytest.mark.parametrize("background", WAYS)
def test_what_an_attempt_before_had_no_time_for_is_done_at_the_launch(
    tmp_path: Path, background: bool
) -> None:
    here, path = tmp_path / "here", tmp_path / "latest.safetensors"
    count(here, until=4, background=False)

    def look(ckpt: holdfast.Checkpointer, t: int) -> None:
        assert wait_until(lambda: shows(path, 4), PATIENCE_SECONDS)

    count(here, until=5, each=look, save=None, publish=f"latest -> {path}", background=background)
    assert wait_until(lambda: shows(path, 5), PATIENCE_SECONDS)
    assert gone(here)


@pytest.mark.parametrize("background", WAYS)
def test_best_and_tag_are_followed_and_may_come_late(tmp_path: Path, background: bool) -> None:
    here, best, tagged = tmp_path / "here", tmp_path / "best.safetensors", tmp_path / "tag.safetensors"

    def score(ckpt: holdfast.Checkpointer, t: int) -> None:
        if t >= 2:
            ckpt.report(score={2: 1.0, 3: 5.0, 4: 2.0, 5: 0.0}[t])
        if t == 4:
            ckpt.save(tag="paper")

    count(
        here,
        each=score,
        save="every 1 step",
        keep=holdfast.keep(last=2, best=1, monitor="score", mode="max"),
        publish=[f"best -> {best}", f"paper -> {tagged}"],
        background=background,
    )
    assert wait_until(lambda: shows(best, 4), PATIENCE_SECONDS)
    assert wait_until(lambda: shows(tagged, 5), PATIENCE_SECONDS)
    assert gone(here)


@pytest.mark.parametrize("background", WAYS)
def test_what_cannot_be_published_is_reported_and_training_goes_on(
    tmp_path: Path, background: bool, capsys: pytest.CaptureFixture[str]
) -> None:
    here, path = tmp_path / "here", tmp_path / "taken.safetensors"
    path.mkdir()
    heard: list[str] = []

    def look(ckpt: holdfast.Checkpointer, t: int) -> None:
        heard.append(capsys.readouterr().err)
        if "is not kept current" in "".join(heard):
            ckpt.stop("heard")
        time.sleep(0.1)

    options = {"save": "every 1 step", "publish": f"latest -> {path}", "background": background}
    state = count(here, until=600, each=look, **options)
    assert 1 <= len(state["log"]) < 600
    text = "".join(heard) + capsys.readouterr().err
    assert text.count("is not kept current") == 1
    assert "is a folder, but a file is to be written" in text
    assert gone(here)  # nobody tries for ever what cannot be


@pytest.mark.parametrize(
    ("publish", "why"),
    [
        ("best -> x.safetensors", "nothing says what is best"),
        ("latest -> x.onnx", "cannot be told from its name"),
        ("latest", "is no rule"),
    ],
)
def test_rules_that_cannot_be_followed_are_refused_at_once(publish: str, why: str) -> None:
    with pytest.raises(UsageError, match=why):
        holdfast.Checkpointer("unused", {}, publish=publish)


def scored(here: Path, path: Path, scores: list[float], **options: Any) -> Path:
    """Train on until there is one step for each score, with the best one published."""

    def score(ckpt: holdfast.Checkpointer, t: int) -> None:
        ckpt.report(score=scores[t])

    rule = holdfast.keep(last=2, best=1, monitor="score", mode="max")
    options = {"keep": rule} | options
    options |= {"save": "every 1 step", "publish": f"best -> {path}", "background": False}
    count(here, until=len(scores), each=score, **options)
    return path


def test_what_is_best_by_another_rule_takes_the_place_of_what_was(tmp_path: Path) -> None:
    here, path = tmp_path / "here", tmp_path / "best.safetensors"
    scored(here, path, [0, 1, 9, 2, 3])
    published = path.read_bytes()
    removed(here, f"main@{holdfast.open(here)['main'].best('score', 'max').step}")
    scored(here, path, [0, 1, 9, 2, 3, 4], keep=holdfast.keep(last=2, best=1, monitor="score", mode="min"))
    assert path.read_bytes() != published


def test_what_is_compared_is_what_the_run_monitors_now(tmp_path: Path) -> None:
    here, path = tmp_path / "here", tmp_path / "best.safetensors"

    def train(until: int, monitor: str) -> bytes:
        def report(ckpt: holdfast.Checkpointer, t: int) -> None:
            ckpt.report(loss_like=[5, 1, 9, 9, 9, 9][t], score=0)

        rule = holdfast.keep(last=6, best=1, monitor=monitor, mode="min")
        options = {"keep": rule, "publish": f"best -> {path}", "background": False, "each": report}
        count(here, until=until, save="every 1 step", **options)
        return path.read_bytes()

    train(3, "score")
    published = train(5, "loss_like")
    removed(here, f"main@{holdfast.open(here)['main'].best('loss_like', 'min').step}")
    assert train(6, "loss_like") == published, "a score of 0 is no loss that is better than 1"


def removed(here: Path, address: str) -> None:
    assert app.run(["rm", address, "--yes", "-R", str(here)]) == 0


def test_a_best_that_the_run_has_lost_gives_way_to_a_better_one_only(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    here, path = tmp_path / "here", tmp_path / "best.safetensors"
    scored(here, path, [0, 1, 9, 2, 3])
    step = holdfast.open(here)["main"].best("score", "max").step
    published = path.read_bytes()
    removed(here, f"main@{step}")
    scored(here, path, [0, 1, 9, 2, 3, 4])
    assert path.read_bytes() == published
    capsys.readouterr()
    assert app.run(["publish", "main@best", str(path), "-R", str(here)]) == 0
    assert f"stays main@{step}: that is not here any more" in capsys.readouterr().out
    scored(here, path, [0, 1, 9, 2, 3, 4, 10, 0])
    assert path.read_bytes() != published


def test_a_best_of_a_dead_branch_or_of_another_run_gives_way_to_a_worse_one(tmp_path: Path) -> None:
    here, path = tmp_path / "here", tmp_path / "best.safetensors"
    scored(here, path, [0, 1, 2, 3, 9])
    published = path.read_bytes()
    step = holdfast.open(here)["main"].best("score", "max").step
    assert app.run(["restart", f"main@{step - 1}", "--yes", "-R", str(here)]) == 0
    scored(here, path, [0, 1, 2, 3, 2, 2])
    assert path.read_bytes() != published
    shutil.rmtree(here)
    published = path.read_bytes()
    scored(here, path, [0, 0, 1])
    assert path.read_bytes() != published


# -- the verb --------------------------------------------------------------------------------


@pytest.fixture
def place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("HOLDFAST_REPOSITORY", str(tmp_path / "here"))
    count(tmp_path / "here", save="every 2 steps", keep="all", background=False)
    return tmp_path / "here"


def told(capsys: pytest.CaptureFixture[str], *arguments: str) -> Any:
    assert app.run(["publish", *arguments, "--json"]) == 0
    return json.loads(capsys.readouterr().out)


def test_a_file_is_written_only_if_it_is_not_that_already(
    place: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "x.safetensors"
    capsys.readouterr()
    found = told(capsys, "main@2", str(path))
    assert found == {"run": "main", "step": 2, "path": str(path), "is_new": True, "is_lost": False}
    written = path.stat().st_ino
    assert told(capsys, "main@2", str(path))["is_new"] is False
    assert path.stat().st_ino == written
    assert told(capsys, "main", str(path))["step"] == 6
    assert shows(path, 6)
    path.write_bytes(b"somebody's own")
    assert told(capsys, "main", str(path))["is_new"] is True
    assert shows(path, 6)


def test_two_that_write_at_once_never_leave_the_older_one(place: Path, tmp_path: Path) -> None:
    """The one that comes first waits, and asks only then what is latest."""
    path = tmp_path / "out" / "x.safetensors"
    path.parent.mkdir()
    lock = os.open(path.parent, os.O_RDONLY)
    fcntl.flock(lock, fcntl.LOCK_EX)
    command = [sys.executable, "-m", "holdfast", "publish", "main", str(path), "-R", str(place)]
    with subprocess.Popen(command, env=os.environ | {"PYTHONPATH": os.pathsep.join(sys.path)}) as first:
        assert wait_until(lambda: _waits_for_a_lock(first.pid), PATIENCE_SECONDS)
        count(place, until=8, save=None, background=False)
        os.close(lock)
        assert first.wait(PATIENCE_SECONDS) == 0
    assert shows(path, 8)


def _waits_for_a_lock(pid: int) -> bool:
    return any(
        line.split()[1] == "->" and line.split()[5] == str(pid)
        for line in Path("/proc/locks").read_text().splitlines()
    )


@pytest.mark.parametrize(
    ("arguments", "code", "why"),
    [
        (["main@9", "x.safetensors"], 3, "no checkpoint @9"),
        (["other", "x.safetensors"], 3, "no run 'other'"),
        (["main", "x.onnx"], 2, "cannot be told from its name"),
        (["main", "link.safetensors"], 2, "symbolic link"),
        (["main", "x/"], 2, "holds no model"),
    ],
)
def test_bad_input_is_one_sentence(
    place: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    arguments: list[str],
    code: int,
    why: str,
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "link.safetensors").symlink_to(tmp_path / "elsewhere")
    assert app.run(["publish", *arguments]) == code
    assert why in capsys.readouterr().err
    assert not (tmp_path / "elsewhere").exists()
