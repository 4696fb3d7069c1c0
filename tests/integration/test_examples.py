"""The examples, killed and compared by the demo; and that its comparison finds what differs."""

from __future__ import annotations

import random
import re
import subprocess
import sys
from collections.abc import Callable
from importlib import import_module
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest
from rich.console import Console

import holdfast

EXAMPLES = Path(__file__).parents[2] / "examples"


@pytest.fixture
def example(monkeypatch: pytest.MonkeyPatch) -> Callable[[str], ModuleType]:
    monkeypatch.syspath_prepend(str(EXAMPLES))
    return import_module


@pytest.mark.parametrize("framework", ["torch", pytest.param("paddle", marks=pytest.mark.paddle)])
def test_killed_in_a_save_and_resumed_it_ends_as_if_never_killed(framework, tmp_path):
    arguments = ["--only", framework, "--kills", "1", "--epochs", "1", "--out", "out"]
    demo = subprocess.run(
        [sys.executable, EXAMPLES / "demo.py", *arguments],
        cwd=tmp_path,
        check=False,
        capture_output=True,
        text=True,
    )
    assert demo.returncode == 0, demo.stdout + demo.stderr
    assert "bit for bit equal to the run that was never interrupted" in demo.stdout
    assert f"kill 1 {framework}/killed: SIGKILL while it wrote a pack" in demo.stdout
    assert "47 losses, 1,500 samples in order" in demo.stdout
    commands = re.findall(r"^  (\S*holdfast .*)$", demo.stdout, re.M)
    assert len(commands) == 3
    for command in commands:
        tried = subprocess.run(command, shell=True, cwd=tmp_path, check=False, capture_output=True, text=True)
        assert tried.returncode == 0, f"{command}: {tried.stdout}{tried.stderr}"
    assert "same state" in subprocess.getoutput(f"cd {tmp_path} && {commands[1]}")


def saved(place: Path, run: str, **changes: Any) -> holdfast.Checkpoint:
    state = {
        "weights": np.arange(6, dtype="float32").reshape(2, 3),
        "values": {"lr": 0.1, "zero": 0.0, "nan": float("nan"), "names": ["a", "b"]},
        "history": [[1, 0.5, [3, 1]], [2, 0.25, [2, 0]]],
    }
    return holdfast.save(place, state | changes, step=2, run=run, metrics={"loss": 0.25})


def flipped() -> Any:
    weights = np.arange(6, dtype="float32").reshape(2, 3)
    weights.view(np.uint32)[1, 0] ^= 1
    return weights


VALUES = {"lr": 0.1, "zero": 0.0, "nan": float("nan"), "names": ["a", "b"]}
STATE = "tensors and values of the training state"
INJECTED = {
    "one bit of a tensor": ({"weights": flipped()}, STATE, "weights[1, 0]"),
    "shape": ({"weights": np.zeros((3, 2), "float32")}, STATE, "weights: float32[2, 3]"),
    "dtype": ({"weights": np.zeros((2, 3), "float64")}, STATE, "weights: float32[2, 3]"),
    "sign of zero": ({"values": VALUES | {"zero": -0.0}}, STATE, "values/zero: 0.0 and -0.0"),
    "type": ({"values": VALUES | {"lr": 1}}, STATE, "values/lr: 0.1 and 1"),
    "missing value": ({"values": {"lr": 0.1}}, STATE, "values/zero: only in the first"),
    "item": ({"values": VALUES | {"names": ["a", "c"]}}, STATE, "values/names[1]: 'b' and 'c'"),
    "loss by one ulp": (
        {"history": [[1, 0.5, [3, 1]], [2, 0.25000000000000006, [2, 0]]]},
        "losses",
        "[1][1]",
    ),
    "order of samples": (
        {"history": [[1, 0.5, [1, 3]], [2, 0.25, [2, 0]]]},
        "order of samples",
        "[0][0]: 3 and 1",
    ),
    "step twice": (
        {"history": [[1, 0.5, [3, 1]], [1, 0.5, [3, 1]], [2, 0.25, [2, 0]]]},
        "losses",
        "2 and 3 items",
    ),
}


def test_equal_states_compare_equal(example, tmp_path):
    found = example("comparing").compare(saved(tmp_path, "a"), saved(tmp_path, "b"))
    assert found.equal
    assert (found.tensors, found.size_bytes, found.steps, found.samples) == (1, 24, 2, 4)


@pytest.mark.parametrize("what", INJECTED)
def test_an_injected_difference_is_found_and_named(what, example, tmp_path):
    changes, kind, told = INJECTED[what]
    found = example("comparing").compare(saved(tmp_path, "a"), saved(tmp_path, "b", **changes))
    assert not found.equal
    assert told in found.differences[kind]


def test_a_generator_that_moved_is_found(example, tmp_path):
    reference = saved(tmp_path, "a")
    random.random()
    found = example("comparing").compare(reference, saved(tmp_path, "b"))
    assert list(found.differences) == ["random generators, data position"]


def test_the_demo_says_and_returns_that_runs_differ(example, tmp_path, capsys):
    demo = example("demo")
    judging = demo.Demo(demo.parse(["--out", str(tmp_path)]), Console(width=200))
    saved(judging.repository, "torch/reference")
    saved(judging.repository, "torch/killed", weights=flipped())
    assert judging.judge("torch", demo.Tally()) is False
    said = capsys.readouterr().out
    assert f"first difference in {STATE}: weights[1, 0]" in said
    assert "NOT equal" in said


def test_the_demo_replaces_only_a_folder_of_its_own(example, tmp_path):
    demo = example("demo")
    mine, other = tmp_path / "mine", tmp_path / "other"
    demo.fresh_folder(mine)
    (mine / "old").touch()
    demo.fresh_folder(mine)
    assert not (mine / "old").exists()
    other.mkdir()
    (other / "thesis.tex").touch()
    with pytest.raises(demo.DemoError, match="not made by this demo"):
        demo.fresh_folder(other)
    assert (other / "thesis.tex").exists()
