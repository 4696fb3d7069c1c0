"""What importing costs and needs: no framework, and nothing that is optional."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.distributed.checkpoint as dcp

import holdfast

BLOCKER = """
import sys
class Blocker:
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] in {hidden!r}:
            raise ModuleNotFoundError(f"No module named {{name!r}}", name=name)
sys.meta_path.insert(0, Blocker())
"""
OPTIONAL = (
    "torch",
    "paddle",
    "torchdata",
    "safetensors",
    "sklearn",
    "jax",
    "tensorboard",
    "mlflow",
    "matplotlib",
)


def run(code: str, *, hidden: tuple[str, ...] = (), expect: int = 0) -> str:
    """In a fresh interpreter, with some packages as if they were not installed."""
    done = subprocess.run(
        [
            sys.executable,
            "-W",
            "error",
            "-c",
            (BLOCKER.format(hidden=hidden) if hidden else "import sys\n") + code,
        ],
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == expect, done.stderr
    return done.stdout


def modules_after(code: str) -> set[str]:
    return set(json.loads(run(code + "\nimport json\nprint(json.dumps(list(sys.modules)))")))


def test_importing_holdfast_imports_next_to_nothing() -> None:
    extra = modules_after("import holdfast") - modules_after("import __future__, importlib, typing")
    assert extra == {"holdfast"}


@pytest.mark.parametrize(
    "code",
    [
        "from holdfast import Checkpointer, load, save, open, every, keep, Checkpoint, Progress, Save",
        "import holdfast.cli.app",
        "import holdfast.training.session, holdfast.repository.repository",
    ],
)
def test_no_framework_is_imported_before_the_script_does(code: str) -> None:
    assert not modules_after(code) & {"torch", "paddle", "torchdata", "safetensors", "pandas"}


@pytest.mark.parametrize(
    "module", ["holdfast.domain.manifest", "holdfast.domain.save_rules", "holdfast.errors"]
)
def test_the_domain_needs_no_arrays(module: str) -> None:
    assert "numpy" not in modules_after(f"import {module}")


PLAIN = """
import holdfast, random, sys
state = {"best": 9.5, "seen": [], "order": random.Random(3)}
with holdfast.Checkpointer(sys.argv[1] if len(sys.argv) > 1 else PLACE, state, save="every 1 step") as ckpt:
    for epoch in ckpt.epochs(UNTIL):
        for item in ckpt.batches([1, 2, 3]):
            state["seen"].append(item + random.random() + state["order"].random())
            ckpt.step(loss=1.0)
print(state["seen"])
"""


def test_optional_packages_are_optional(tmp_path: Path) -> None:
    def train(place: Path, until: int) -> str:
        code = f"PLACE, UNTIL = {str(place)!r}, {until}\nimport random\nrandom.seed(1)\n" + PLAIN
        return run(code, hidden=OPTIONAL)

    train(tmp_path / "cut", 1)
    assert train(tmp_path / "cut", 3) == train(tmp_path / "whole", 3)


def test_without_numpy_in_the_script_arrays_still_resume(tmp_path: Path) -> None:
    holdfast.save(tmp_path, {"w": np.arange(5.0)}, step=3)
    code = f"import holdfast\nprint(holdfast.open({str(tmp_path)!r})['main'].latest.load()['w'].sum())"
    assert run(code, hidden=OPTIONAL).strip() == "10.0"


def test_a_checkpoint_of_a_framework_that_is_not_there_is_refused_by_name(tmp_path: Path) -> None:
    holdfast.save(tmp_path, {"w": torch.ones(3), "g": torch.Generator()}, step=3)
    code = f"""
import holdfast
try:
    holdfast.load({str(tmp_path)!r}, {{"w": None, "g": None}})
except holdfast.UnsupportedError as error:
    print(error)
"""
    said = run(code, hidden=OPTIONAL)
    assert "torch cannot be imported" in said
    assert "pip install torch" in said


@pytest.mark.filterwarnings("ignore")  # DCP warns of being used without a process group
def test_an_import_without_its_framework_is_refused_by_name(tmp_path: Path) -> None:
    (tmp_path / "steps").mkdir()
    torch.save({"w": torch.ones(3)}, tmp_path / "steps" / "step-1.pt")
    dcp.save({"w": torch.ones(3)}, checkpoint_id=str(tmp_path / "dcp"), no_dist=True)
    for number, source in enumerate((tmp_path / "steps" / "step-1.pt", tmp_path / "steps", tmp_path / "dcp")):
        code = f"""
from holdfast.cli.app import main
sys.stderr = sys.stdout
sys.argv = ["holdfast", "import", {str(source)!r}, "q{number}", "-R", {str(tmp_path / "c")!r}]
main()
"""
        assert "pip install torch" in run(code, hidden=OPTIONAL, expect=8)


def test_the_command_line_needs_no_framework(tmp_path: Path) -> None:
    holdfast.save(tmp_path, {"w": torch.ones(3)}, step=3, run="digits")
    code = f"""
from holdfast.cli.app import main
sys.argv = ["holdfast", "ls", "--repository", {str(tmp_path)!r}]
main()
"""
    assert "digits" in run(code, hidden=OPTIONAL)


def test_no_file_outgrows_its_reader():
    """400 lines, as CONTRIBUTING says."""
    package = Path(holdfast.__file__).parent
    lines = {str(path): len(path.read_text().splitlines()) for path in package.rglob("*.py")}
    assert {path: count for path, count in lines.items() if count > 400} == {}
