"""A framework that the script imports only in its loop: its generators go on all the same."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

SCRIPT = """
import sys
import holdfast

repository, until, name = sys.argv[1], int(sys.argv[2]), sys.argv[3]
state = {"drawn": []}
with holdfast.Checkpointer(repository, state, save="every 1 steps") as ckpt:
    for t in ckpt.steps(until):
        if name == "torch":
            import torch as framework
            seed = framework.manual_seed
        else:
            import paddle as framework
            seed = framework.seed
        if t == 0:
            seed(5)
        state["drawn"].append(framework.rand([1]).numpy().tobytes().hex())
        ckpt.step()
print(state["drawn"])
"""
MISSING = """
import sys

class Gone:
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] == "torch":
            raise ModuleNotFoundError("No module named 'torch'", name="torch")

sys.meta_path.insert(0, Gone())
import holdfast
state = {"drawn": []}
holdfast.load(sys.argv[1], into=state)
print(len(state["drawn"]))
"""


def train(script: str, *arguments: object) -> str:
    done = subprocess.run(
        [sys.executable, "-c", script, *map(str, arguments)],
        capture_output=True,
        text=True,
        check=False,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


@pytest.mark.parametrize("name", ["torch", pytest.param("paddle", marks=pytest.mark.paddle)])
def test_a_framework_imported_in_the_loop_goes_on_drawing_where_it_was(tmp_path: Path, name: str) -> None:
    straight = train(SCRIPT, tmp_path / "straight", 4, name)
    train(SCRIPT, tmp_path / "cut", 2, name)
    assert train(SCRIPT, tmp_path / "cut", 4, name) == straight


def test_a_framework_that_is_gone_keeps_nothing_from_being_restored(tmp_path: Path) -> None:
    train(SCRIPT, tmp_path, 2, "torch")
    assert train(MISSING, tmp_path).strip() == "2"
