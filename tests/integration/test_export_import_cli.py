from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from safetensors.numpy import load_file, save_file

import holdfast
from holdfast.cli import app


@pytest.fixture
def place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    path = tmp_path / "checkpoints"
    monkeypatch.setenv("HOLDFAST_REPOSITORY", str(path))
    holdfast.save(path, {"weights": np.arange(4.0), "lr": 0.1}, step=7, run="sweep/a")
    return path


def said(capsys: pytest.CaptureFixture[str], *arguments: str) -> Any:
    assert app.run([*arguments, "--json"]) == 0
    return json.loads(capsys.readouterr().out)


def test_export_and_import(place: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    target = str(tmp_path / "w.safetensors")
    told = said(capsys, "export", "sweep/a@7", target)
    assert told == {
        "run": "sweep/a",
        "step": 7,
        "format": "safetensors",
        "paths": [target],
        "tensors": 1,
        "size_bytes": 32,
        "left_out": ["lr"],
    }
    np.testing.assert_array_equal(load_file(target)["weights"], np.arange(4.0))
    told = said(capsys, "import", target, "copy")
    assert (told["step"], told["entries"], told["left_out"]) == (7, ["weights"], [])
    state = {"weights": np.zeros(4)}
    holdfast.load(place, state, run="copy")
    np.testing.assert_array_equal(state["weights"], np.arange(4.0))


def test_people_are_told_what_was_left_out(
    place: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert app.run(["export", "sweep/a", str(tmp_path / "w.safetensors"), "--only", "weights"]) == 0
    out = capsys.readouterr().out
    assert out.startswith("Wrote sweep/a@7 to ")
    assert "1 tensor, 32 B" in out
    assert app.run(["export", "sweep/a", str(tmp_path / "x.safetensors")]) == 0
    assert "Left out, as the format has no place for it: lr." in capsys.readouterr().out


@pytest.mark.parametrize(
    ("arguments", "code", "why"),
    [
        (["export", "sweep/a", "checkpoints/holdfast.json", "--format", "torch"], 2, "exists already"),
        (["export", "sweep/a", "x.onnx"], 2, "cannot be told from its name"),
        (["export", "sweep/a", "x.pt", "--format", "onnx"], 2, "no format 'onnx'"),
        (["export", "sweep/a", "x.pdparams"], 2, "no model of Paddle"),
        (["export", "sweep/a", "folder/"], 2, "holds no model"),
        (["export", "sweep/a", "x.safetensors", "--only", "lr"], 2, "holds no tensors"),
        (["export", "sweep/a", "x.pt", "--only", "model"], 3, "has no model; it holds lr, weights"),
        (["export", "sweep/a@8", "x.pt"], 3, "no checkpoint @8"),
        (["export", "other", "x.pt"], 3, "no run 'other'"),
        (["import", "absent.pt", "new"], 3, "no file absent.pt"),
        (["import", "empty.safetensors", "new"], 4, "not a whole .safetensors"),
        (["import", "empty.safetensors", "sweep/a"], 2, "exists already"),
        (["import", "empty.safetensors", "../up"], 2, "cannot name a run"),
        (["import", "w.safetensors", "new", "--framework", "jax"], 2, "no framework 'jax'"),
        (["import", "w.safetensors", "new", "--only", "lr"], 3, "has no lr; it holds model"),
        (["import", "hf", "new"], 4, "names '../w.safetensors'"),
    ],
)
def test_errors_are_one_sentence(
    place: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    arguments: list[str],
    code: int,
    why: str,
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "empty.safetensors").touch()
    save_file({"w": np.ones(2)}, tmp_path / "w.safetensors")
    (tmp_path / "hf").mkdir()
    index = {"weight_map": {"w": "../w.safetensors"}}
    (tmp_path / "hf" / "model.safetensors.index.json").write_text(json.dumps(index))
    before = sorted(p.name for p in tmp_path.iterdir())
    assert app.run(arguments) == code
    assert why in capsys.readouterr().err
    assert sorted(p.name for p in tmp_path.iterdir()) == before
    assert [r.name for r in holdfast.open(place).runs()] == ["sweep/a"]


def test_weights_move_without_a_framework(place: Path, tmp_path: Path) -> None:
    script = (
        "import sys; from holdfast.cli import app;"
        f"assert app.run(['export', 'sweep/a', {str(tmp_path / 'w.safetensors')!r}]) == 0;"
        f"assert app.run(['import', {str(tmp_path / 'w.safetensors')!r}, 'copy']) == 0;"
        "assert not {'torch', 'paddle', 'safetensors'} & sys.modules.keys()"
    )
    subprocess.run([sys.executable, "-c", script], check=True, timeout=60)
