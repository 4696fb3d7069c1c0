"""The benchmark of many checkpoints fills a repository that is sound, and looks at it in every way."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

import holdfast

pytestmark = pytest.mark.timeout(600)
BENCHMARKS = Path(__file__).parent.parent.parent / "benchmarks"


def test_it_measures_every_look(tmp_path):
    counts = ("--checkpoints", "30", "--tensors", "20", "--changing", "5")
    places = ("--folder", tmp_path / "work", "--out", tmp_path)
    command = [sys.executable, BENCHMARKS / "scale.py", *counts, *places]
    done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=560)
    assert done.returncode == 0, done.stderr
    found = json.loads((tmp_path / "scale.json").read_text())
    assert set(found["looks"]) >= {
        "open",
        "list",
        "newest_recovery_point",
        "whole_ls_command",
        "plan_a_prune",
    }
    assert all(look["seconds"] > 0 and look["memory_bytes"] > 1 << 20 for look in found["looks"].values())
    assert found["manifest_bytes_per_tensor"] > 32  # a digest at least
    assert list((tmp_path / "work").iterdir()) == []


def test_what_it_fills_is_a_repository_as_any_other(tmp_path, monkeypatch):
    monkeypatch.syspath_prepend(BENCHMARKS)
    import scale

    scale.fill(tmp_path / "many", 6, 20, 5)
    run = holdfast.open(tmp_path / "many")["main"]
    assert [c.step for c in run] == [1, 2, 3, 4, 5, 6]
    for checkpoint in run:
        checkpoint.verify()
    before, after = (run[step].load()["model"] for step in (5, 6))
    assert sum(before[name].tobytes() != after[name].tobytes() for name in before) == 5
