"""Real git and git-lfs: files exported into a work tree, objects moved to and from a repository."""

from __future__ import annotations

import errno
import hashlib
import json
import os
import shutil
import subprocess
import sys
import uuid
from pathlib import Path
from typing import Any
from unittest.mock import Mock

import numpy as np
import pytest
from safetensors.numpy import load_file, save_file
from tests import s3_server

import holdfast
from holdfast.cli import app
from holdfast.errors import StorageError, UsageError
from holdfast.formats.lfs_objects import get_object, put_object, sha256_of
from holdfast.formats.reading import SavedState
from holdfast.integrations.git_lfs import serve
from holdfast.repository.repository import Repository
from holdfast.storage.urls import open_storage
from mortal_storage import Killed, Mortal

WEIGHTS = np.random.default_rng(3).standard_normal(200_000)


@pytest.fixture
def place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    home = tmp_path / "home"
    home.mkdir()
    for name, value in {
        "HOME": str(home),
        "GIT_CONFIG_NOSYSTEM": "1",
        "GIT_TERMINAL_PROMPT": "0",
        "HOLDFAST_REPOSITORY": str(tmp_path / "checkpoints"),
        "PYTHONPATH": os.pathsep.join(sys.path),
    }.items():
        monkeypatch.setenv(name, value)
    git(home, "config", "--global", "user.name", "somebody")
    git(home, "config", "--global", "user.email", "somebody@example.org")
    git(home, "config", "--global", "init.defaultBranch", "main")
    git(home, "lfs", "install")
    holdfast.save(tmp_path / "checkpoints", {"w": WEIGHTS, "b": np.arange(9.0)}, step=7, run="digits")
    return tmp_path / "checkpoints"


@pytest.fixture
def tree(place: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    folder = tmp_path / "work"
    folder.mkdir()
    git(folder, "init", "-q")
    git(folder, "lfs", "track", "*.safetensors")
    git(tmp_path, "init", "-q", "--bare", "origin.git")
    git(folder, "remote", "add", "origin", str(tmp_path / "origin.git"))
    monkeypatch.chdir(folder)
    return folder


def git(folder: Path, *words: str, code: int | None = 0) -> str:
    done = subprocess.run(["git", *words], cwd=folder, capture_output=True, text=True, check=False)
    assert code is None or done.returncode == code, done.stderr
    return done.stdout + done.stderr


def exported(tree: Path, name: str = "w.safetensors") -> Path:
    assert app.run(["export", "digits", name, "--git-lfs"]) == 0
    return tree / name


def stored_bytes(place: Path) -> int:
    return sum(file.stat().st_size for file in place.rglob("*.pack"))


def test_what_is_exported_is_staged_as_a_pointer(tree: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert app.run(["export", "digits", "w.safetensors", "--git-lfs", "--json"]) == 0
    told = json.loads(capsys.readouterr().out)
    oid = hashlib.sha256((tree / "w.safetensors").read_bytes()).hexdigest()
    assert told["staged"] == {"w.safetensors": oid}
    pointer = git(tree, "cat-file", "-p", ":w.safetensors")
    size_bytes = (tree / "w.safetensors").stat().st_size
    assert pointer.splitlines()[1:] == [f"oid sha256:{oid}", f"size {size_bytes}"]
    assert np.array_equal(load_file(tree / "w.safetensors")["w"], WEIGHTS)


@pytest.mark.parametrize(
    ("target", "why"),
    [
        ("w.pt", "w.pt is not tracked by Git LFS.\nRun first: git lfs track '*.pt'."),
        ("../outside/w.safetensors", "Give a path in a git work tree."),
    ],
)
def test_what_lfs_does_not_track_is_refused_before_anything_is_written(
    tree: Path, capsys: pytest.CaptureFixture[str], target: str, why: str
) -> None:
    (tree.parent / "outside").mkdir()
    assert app.run(["export", "digits", target, "--git-lfs"]) == 2
    assert why in capsys.readouterr().err
    assert not (tree / target).exists()


def test_a_folder_is_staged_with_its_weights_as_pointers(place: Path, tree: Path) -> None:
    import torch

    holdfast.save(place, {"model": torch.nn.Linear(2, 2)}, step=1, run="net")
    assert app.run(["export", "net", "model/", "--git-lfs"]) == 0
    names = git(tree, "diff", "--cached", "--name-only").split()
    assert names == ["model/model.safetensors", "model/trainer_state.json"]
    assert git(tree, "cat-file", "-p", ":model/model.safetensors").startswith("version https://git-lfs")


def test_push_and_pull_go_through_the_repository(place: Path, tree: Path, tmp_path: Path) -> None:
    path = exported(tree)
    before_bytes = stored_bytes(place)
    assert app.run(["lfs-agent", "--configure"]) == 0
    git(tree, "add", ".gitattributes")
    git(tree, "commit", "-qm", "weights")
    git(tree, "push", "-q", "origin", "main")
    assert stored_bytes(place) - before_bytes < 100_000  # tensors are those of the checkpoint
    clone = cloned(tmp_path)
    assert (clone / path.name).stat().st_size < 1000
    git(clone, "lfs", "pull")
    assert (clone / path.name).read_bytes() == path.read_bytes()
    assert git(clone, "status", "--porcelain") == ""
    holdfast.open(place)["digits"].latest.verify()
    assert [r.name.startswith("lfs/sha256-") for r in holdfast.open(place).runs("lfs/*")] == [True]


def cloned(tmp_path: Path) -> Path:
    """With pointers only, set up to pull."""
    environment = os.environ | {"GIT_LFS_SKIP_SMUDGE": "1"}
    command = ["git", "clone", "-q", str(tmp_path / "origin.git"), str(tmp_path / "clone")]
    subprocess.run(command, env=environment, check=True)
    here = Path.cwd()
    os.chdir(tmp_path / "clone")
    assert app.run(["lfs-agent", "--configure"]) == 0
    os.chdir(here)
    return tmp_path / "clone"


def test_an_object_that_is_damaged_or_gone_is_not_pulled(place: Path, tree: Path, tmp_path: Path) -> None:
    (tree / "x.safetensors").write_bytes(b"no tensors, " * 1000)
    assert app.run(["lfs-agent", "--configure"]) == 0
    git(tree, "add", ".")
    git(tree, "commit", "-qam", "something")
    git(tree, "push", "-q", "origin", "main")
    clone = cloned(tmp_path)
    packs = {file: file.read_bytes() for file in place.rglob("*.pack")}
    for file, data in packs.items():
        file.write_bytes(data.replace(b"no tensors", b"NO tensors"))
    said = git(clone, "lfs", "pull", code=2)
    assert "digest" in said or "damaged" in said
    assert (clone / "x.safetensors").read_text().startswith("version https://git-lfs")
    shutil.rmtree(place / "runs" / "lfs")
    said = git(clone, "lfs", "pull", code=2)
    assert "is not in" in said
    assert not list((clone / ".git" / "lfs" / "tmp").glob("holdfast-*"))


# -- the protocol ----------------------------------------------------------------------------


def spoken(location: str | Path, *messages: dict[str, Any]) -> list[dict[str, Any]]:
    said: list[dict[str, Any]] = []

    def opened(create: bool) -> Repository:
        storage = open_storage(location, create=create)
        return Repository.create(storage) if create else Repository.open(storage)

    serve([json.dumps(message) for message in messages], said.append, opened)
    return said


def init(operation: str) -> dict[str, Any]:
    return {"event": "init", "operation": operation, "remote": "origin", "concurrent": False}


END = {"event": "terminate"}


def both_ways(location: str | Path, path: Path) -> bytes:
    oid = hashlib.sha256(path.read_bytes()).hexdigest()
    size = path.stat().st_size
    upload = {"event": "upload", "oid": oid, "size": size, "path": str(path), "action": None}
    started, progress, done = spoken(location, init("upload"), upload, END)
    assert started == {}
    assert (progress["bytesSoFar"], progress["bytesSinceLast"]) == (size, size)
    assert done == {"event": "complete", "oid": oid}
    assert spoken(location, init("upload"), upload, END)[1:] == [done]  # it is there already
    said = spoken(location, init("download"), {"event": "download", "oid": oid, "size": size}, END)
    assert sum(s["bytesSinceLast"] for s in said if s.get("event") == "progress") == size
    fetched = Path(said[-1]["path"])
    data = fetched.read_bytes()
    fetched.unlink()
    return data


@pytest.mark.parametrize("size", [1, 4096, 100_000, 5_000_000])
def test_any_bytes_come_back(tmp_path: Path, size: int) -> None:
    path = tmp_path / "object"
    path.write_bytes(np.random.default_rng(size).bytes(size))
    assert both_ways(tmp_path / "checkpoints", path) == path.read_bytes()


def test_an_object_store_serves_as_well(s3: str, tmp_path: Path) -> None:
    path = tmp_path / "object"
    save_file({"w": WEIGHTS}, path)
    assert both_ways(s3_server.url(s3, uuid.uuid4().hex), path) == path.read_bytes()


def test_a_push_killed_before_any_change_of_the_storage_is_done_again(tmp_path: Path) -> None:
    path = tmp_path / "object"
    save_file({"w": WEIGHTS[:3000]}, path)
    oid, changes, killed = sha256_of(path), 0, True
    while killed:
        storage = Mortal()
        repository = Repository.create(storage, chunk_bytes=4096)
        storage.left, killed = changes, False
        try:
            put_object(repository, oid, path)
        except Killed:
            killed = True
        storage.left = 10**9
        again = Repository.open(storage)
        put_object(again, oid, path)
        get_object(again, oid, tmp_path / f"got-{changes}")
        assert (tmp_path / f"got-{changes}").read_bytes() == path.read_bytes()
        changes += 1
    assert changes > 4


def test_a_push_cut_short_beside_another_hides_nothing(tmp_path: Path) -> None:
    """Both had seen that the object was not there; one was killed when it had begun."""
    repository = Repository.create(open_storage(tmp_path / "checkpoints", create=True))
    path = tmp_path / "object"
    path.write_bytes(b"bytes" * 1000)
    oid = sha256_of(path)
    put_object(repository, oid, path)
    run = repository.run(f"lfs/sha256-{oid}")
    run.record_base(run.begin_attempt(), None)
    get_object(Repository.open(repository.storage), oid, tmp_path / "again")
    assert (tmp_path / "again").read_bytes() == path.read_bytes()


def test_a_pull_on_a_full_disk_leaves_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    repository = Repository.create(open_storage(tmp_path / "checkpoints", create=True))
    path = tmp_path / "object"
    path.write_bytes(b"bytes" * 1000)
    put_object(repository, oid := sha256_of(path), path)
    full = OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
    monkeypatch.setattr(SavedState, "stream", Mock(side_effect=full))
    with pytest.raises(StorageError, match="no space is left"):
        get_object(repository, oid, tmp_path / "again")
    assert not (tmp_path / "again").exists()


def test_an_object_with_another_hash_is_refused_both_ways(tmp_path: Path) -> None:
    path, oid = tmp_path / "object", "0" * 63 + "1"
    path.write_bytes(b"something else")
    upload = {"event": "upload", "oid": oid, "size": 14, "path": str(path)}
    _, done = spoken(tmp_path / "checkpoints", init("upload"), upload, END)
    assert done["error"]["code"] == 4
    assert "its SHA-256 is another" in done["error"]["message"]
    holdfast.save(tmp_path / "checkpoints", {"content": [np.zeros(3)]}, step=0, run=f"lfs/sha256-{oid}")
    _, *rest = spoken(tmp_path / "checkpoints", init("download"), {"event": "download", "oid": oid}, END)
    assert "has another SHA-256" in rest[-1]["error"]["message"]


def test_what_is_not_there_is_named(tmp_path: Path) -> None:
    holdfast.save(tmp_path / "checkpoints", {"x": 1}, step=1)
    for oid, why in (("a" * 64, "is not in"), ("../x", "is not the name of an object")):
        _, done = spoken(tmp_path / "checkpoints", init("download"), {"event": "download", "oid": oid}, END)
        assert why in done["error"]["message"]
        assert done["oid"] == oid
    (told,) = spoken(tmp_path / "absent", init("download"), END)
    assert "no repository" in told["error"]["message"]


def test_what_is_not_of_git_lfs_is_refused() -> None:
    with pytest.raises(UsageError, match="Let git-lfs start this agent"):
        serve(["hello\n"], lambda line: None, lambda create: pytest.fail("opened"))
