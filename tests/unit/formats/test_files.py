from __future__ import annotations

import os
from pathlib import Path

import pytest

from holdfast.errors import HoldfastError, StorageError, UsageError
from holdfast.formats.bounds import check_bounds
from holdfast.formats.files import check_target, new_file, new_folder


def names(folder: Path) -> list[str]:
    return sorted(p.name for p in folder.iterdir())


def test_a_file_appears_whole(tmp_path: Path) -> None:
    with new_file(tmp_path / "x", overwrite=False) as file:
        file.write(b"one")
        assert "x" not in names(tmp_path)
    assert (tmp_path / "x").read_bytes() == b"one"
    assert names(tmp_path) == ["x"]


def test_a_failed_file_leaves_nothing(tmp_path: Path) -> None:
    (tmp_path / "x").write_bytes(b"old")
    with pytest.raises(TypeError), new_file(tmp_path / "x", overwrite=True) as file:
        file.writelines([b"half", None])  # type: ignore[list-item]  # fails in the middle
    assert names(tmp_path) == ["x"]
    assert (tmp_path / "x").read_bytes() == b"old"


def test_an_existing_file_stays_unless_overwritten(tmp_path: Path) -> None:
    (tmp_path / "x").write_bytes(b"old")
    with pytest.raises(UsageError, match="exists already"), new_file(tmp_path / "x", overwrite=False):
        pass
    with new_file(tmp_path / "x", overwrite=True) as file:
        file.write(b"new")
    assert (tmp_path / "x").read_bytes() == b"new"


def test_a_file_that_comes_meanwhile_stays(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="exists already"), new_file(tmp_path / "x", overwrite=False):
        (tmp_path / "x").write_bytes(b"theirs")
    assert (tmp_path / "x").read_bytes() == b"theirs"
    assert names(tmp_path) == ["x"]


@pytest.mark.parametrize("overwrite", [False, True])
def test_symbolic_links_are_not_followed(tmp_path: Path, overwrite: bool) -> None:
    (tmp_path / "real").write_bytes(b"old")
    (tmp_path / "link").symlink_to(tmp_path / "real")
    (tmp_path / "dangling").symlink_to(tmp_path / "absent")
    for name in ("link", "dangling"):
        with pytest.raises(UsageError, match="symbolic link"), new_file(tmp_path / name, overwrite=overwrite):
            pass
        with pytest.raises(UsageError, match="symbolic link"):
            check_target(tmp_path / name, overwrite=overwrite, folder=True)
    assert (tmp_path / "real").read_bytes() == b"old"
    assert not (tmp_path / "absent").exists()


def test_a_folder_never_nests_in_an_existing_one(tmp_path: Path) -> None:
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "model.safetensors").write_bytes(b"old")
    with pytest.raises(UsageError, match="exists already"):
        check_target(tmp_path / "out", overwrite=False, folder=True)
    with new_folder(tmp_path / "out", overwrite=True, replaceable=["*.safetensors"]) as folder:
        (folder / "model.safetensors").write_bytes(b"new")
    assert names(tmp_path) == ["out"]
    assert names(tmp_path / "out") == ["model.safetensors"]
    assert (tmp_path / "out" / "model.safetensors").read_bytes() == b"new"


def test_a_folder_with_somebodys_work_is_not_replaced(tmp_path: Path) -> None:
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "thesis.tex").write_bytes(b"years")
    with (
        pytest.raises(UsageError, match=r"'thesis\.tex', which no export wrote"),
        new_folder(tmp_path / "out", overwrite=True, replaceable=["*.safetensors"]),
    ):
        pass
    assert (tmp_path / "out" / "thesis.tex").read_bytes() == b"years"


def test_a_failed_folder_leaves_nothing(tmp_path: Path) -> None:
    with pytest.raises(TypeError), new_folder(tmp_path / "out", overwrite=False, replaceable=[]) as folder:
        (folder / "a").write_bytes("half")  # type: ignore[arg-type]  # fails with the file begun
    assert names(tmp_path) == []


@pytest.mark.parametrize(
    ("path", "why"),
    [("absent/x", "does not exist"), ("", "cannot name"), ("..", "cannot name"), ("a\0b", "cannot name")],
)
def test_targets_that_mean_nothing_are_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, path: str, why: str
) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(UsageError, match=why):
        check_target(Path(path), overwrite=True)


def test_the_other_kind_is_refused(tmp_path: Path) -> None:
    (tmp_path / "folder").mkdir()
    (tmp_path / "file").touch()
    with pytest.raises(UsageError, match="is a folder, but a file"):
        check_target(tmp_path / "folder", overwrite=True)
    with pytest.raises(UsageError, match="is a file, but a folder"):
        check_target(tmp_path / "file", overwrite=True, folder=True)


def test_a_full_disk_is_said_plainly(tmp_path: Path) -> None:
    def full() -> None:
        raise OSError(28, os.strerror(28))

    with pytest.raises(StorageError, match="no space is left"), new_file(tmp_path / "x", overwrite=False):
        full()
    assert names(tmp_path) == []


def test_endless_structures_are_refused() -> None:
    check_bounds({"a": [1, (2, {3})]}, "x")
    deep: list[object] = []
    deep.append(deep)
    wide: list[object] = [1]
    for _ in range(40):
        wide = [wide, wide]
    for value in (deep, wide):
        with pytest.raises(HoldfastError, match="too deeply or too many"):
            check_bounds(value, "x")
