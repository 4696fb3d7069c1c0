"""What exactness rests on besides the state, recorded and compared: one clear warning where it changed."""

from __future__ import annotations

import subprocess
from pathlib import Path
from typing import Any

import pytest
import torch
from tests.integration.training.launching import run_of

import holdfast
from holdfast.frameworks import walk
from holdfast.repository.commit import Draft, commit
from holdfast.training.environment import environment

torch.set_num_threads(1)
Said = pytest.CaptureFixture[str]


def train(repository: Path, steps: int) -> None:
    with holdfast.Checkpointer(repository, {"w": torch.zeros(3)}) as ckpt:
        list(ckpt.steps(steps))


def save_elsewhere(repository: Path, step: int, **changed: dict[str, str]) -> None:
    """A checkpoint as another environment would have written it."""
    train(repository, step)
    run = run_of(repository)
    parent = run.latest()
    manifest = run.manifest(parent)
    state = {"w": torch.ones(3)}
    captured = walk.capture(state)
    recorded = {name: dict(values) for name, values in manifest.details.environment.items()}
    for section, values in changed.items():
        recorded.setdefault(section, {}).update(values)
    attempt = run.begin_attempt()
    run.record_base(attempt, parent)
    from holdfast.domain import tree

    draft = Draft(
        attempt=attempt,
        sequence=1,
        progress=manifest.summary.progress,
        reason="elsewhere",
        sources=captured.tensors,
        tree=captured.tree,
        training=tree.decode(manifest.details.training),
        given={k: tree.decode(v) for k, v in manifest.details.given.items()},
        environment=recorded,
        parent=parent,
    )
    commit(run, draft)


def test_what_is_recorded(tmp_path: Path) -> None:
    train(tmp_path, 1)
    recorded = holdfast.open(tmp_path)["main"].latest.manifest().details.environment
    assert recorded["versions"]["torch"] == torch.__version__
    assert {"python", "numpy"} <= recorded["versions"].keys()
    assert recorded["devices"]["torch"] == "cpu"
    assert recorded["flags"]


def test_nothing_is_said_where_nothing_changed(tmp_path: Path, capsys: Said) -> None:
    train(tmp_path, 1)
    train(tmp_path, 2)
    assert "WARNING" not in capsys.readouterr().err


def test_what_cannot_be_exact_any_more_is_one_clear_warning(tmp_path: Path, capsys: Said) -> None:
    save_elsewhere(
        tmp_path,
        2,
        versions={"torch": "1.0.0", "python": "3.7.1"},
        devices={"torch": "cuda NVIDIA X"},
        code={"git commit": "0123abc"},
    )
    capsys.readouterr()
    train(tmp_path, 4)
    said = capsys.readouterr().err
    assert said.count("WARNING") == 1
    assert "may no longer be exact bit for bit" in said
    assert f"The version of torch is {torch.__version__} now, was 1.0.0." in said
    assert "was cuda NVIDIA X" in said
    assert "was 0123abc" in said
    train(tmp_path, 6)  # from here on this environment is the recorded one
    assert "WARNING" not in capsys.readouterr().err


def test_other_code_alone_is_no_reason_to_warn(tmp_path: Path, capsys: Said) -> None:
    save_elsewhere(tmp_path, 2, code={"git commit": "0123abc"})
    capsys.readouterr()
    train(tmp_path, 4)
    assert "WARNING" not in capsys.readouterr().err


def test_determinism_flags_count(tmp_path: Path, capsys: Said) -> None:
    train(tmp_path, 1)
    before = torch.are_deterministic_algorithms_enabled()
    torch.use_deterministic_algorithms(not before)
    try:
        train(tmp_path, 2)
    finally:
        torch.use_deterministic_algorithms(before)
    assert "determinis" in capsys.readouterr().err


def test_the_commit_is_that_of_the_working_directory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("GIT_CEILING_DIRECTORIES", str(tmp_path.parent))
    assert "code" not in environment()
    git: list[Any] = ["git", "-c", "user.name=x", "-c", "user.email=x@example.org"]
    subprocess.run([*git, "init", "-q"], check=True)
    subprocess.run([*git, "commit", "-q", "--allow-empty", "-m", "first"], check=True)
    assert len(environment()["code"]["git commit"]) == 40
    monkeypatch.setenv("PATH", "")
    assert "code" not in environment()
