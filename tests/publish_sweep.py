"""Kill a publication at each of its system calls; what has the name is whole, old or new.

Run as a program by the tests, because the process that forks must be small and have one thread:
``python tests/publish_sweep.py FOLDER TARGET``.
"""

from __future__ import annotations

import json
import shutil
import sys
from pathlib import Path

import numpy as np
from safetensors.numpy import load_file, save_file

from holdfast.formats.publishing import publish
from holdfast.formats.series import import_folder
from holdfast.repository.repository import Repository
from holdfast.storage.local import LocalStorage
from tracing import run_traced


def repository(folder: Path) -> Repository:
    files = folder / "files"
    files.mkdir()
    for step in (1, 2):
        save_file({"w": np.full(3000, float(step))}, files / f"step-{step}.safetensors")
    made = Repository.create(LocalStorage(folder / "checkpoints", create=True))
    assert len(import_folder(made, "net", files).imported) == 2
    return made


def step_in(target: Path) -> int:
    """Which step stands there, all of it."""
    file = target / "model.safetensors" if target.is_dir() else target
    step = int(load_file(file)["w"][0])
    assert (load_file(file)["w"] == step).all()
    if target.is_dir():
        assert json.loads((target / "trainer_state.json").read_text())["global_step"] == step
    return step


def main() -> None:
    folder, name = Path(sys.argv[1]), sys.argv[2]
    run = repository(folder).run("net")
    out = folder / "out"
    path, target = f"{out}/{name}", out / name
    point, seen, killed = 0, set(), True
    while killed:
        point += 1
        shutil.rmtree(out, ignore_errors=True)
        publish(run, 1, path)
        killed = run_traced(lambda: publish(run, 2, path) and None, kill_at=point).killed
        seen.add(step_in(target))
        assert publish(run, 2, path).checkpoint.step == 2
        assert step_in(target) == 2
        assert sorted(p.name for p in out.iterdir()) == sorted([f".{target.name}.published", target.name])
    print(json.dumps({"tried": point, "seen": sorted(seen)}))


if __name__ == "__main__":
    main()
