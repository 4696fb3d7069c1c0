"""Storage that fails under a training: it goes on, says so rarely, and saves again by itself."""

from __future__ import annotations

import contextlib
import os
import resource
import shutil
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from tests.integration.training.launching import Tell, count, launch, run_of, steps_in

import filesystems
import holdfast
from holdfast.repository import persisting
from holdfast.training import saving

Said = pytest.CaptureFixture[str]
SIZE = 125_000  # a checkpoint of one megabyte
Turn = Callable[[holdfast.Checkpointer, int], None]


@pytest.fixture(autouse=True)
def short_pauses(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(saving, "FIRST_PAUSE_SECONDS", 0.02)


@pytest.fixture(autouse=True)
def spare(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(persisting, "SPARE_BYTES", 64 * 1024)


def faulty(repository: Path, break_it: Callable[[], Any], mend: Callable[[], Any], **options: Any) -> None:
    """Twenty steps; before the 6th something breaks, before the 16th it is mended."""

    def each(ckpt: holdfast.Checkpointer, t: int) -> None:
        if t == 5:
            break_it()
        if t == 15:
            mend()
            time.sleep(0.7)  # longer than the pause by now
        time.sleep(0.02)

    count(repository, until=20, save="every 1 step", each=each, size=SIZE, **options)


def check_recovered(repository: Path, said: str, why: str) -> None:
    assert steps_in(repository)[-1] == 20
    assert 1 <= said.count("could not be saved") <= 4  # the 1st, 2nd, 4th, 8th
    assert "step 6 of main could not be saved" in said
    assert why in said
    assert "Training goes on" in said
    assert said.count("saving of main works again at step 16") == 1
    state = {"weights": np.zeros(SIZE), "log": []}
    assert holdfast.load(repository, state).step == 20
    assert state["log"] == list(range(20))
    holdfast.open(repository)["main"].latest.verify()


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[filesystems.Image]:
    with filesystems.mounted("ext4", 12 << 20, tmp_path) as image:
        yield image


def used_bytes(path: Path) -> int:
    room = os.statvfs(path)
    return (room.f_blocks - room.f_bfree) * room.f_frsize


def fill(folder: Path, leave_bytes: int = 0) -> Path:
    ballast = folder / "ballast"
    with ballast.open("wb", buffering=0) as file, contextlib.suppress(OSError):
        while os.statvfs(folder).f_bavail * 4096 > leave_bytes:
            file.write(bytes(64 * 1024))
    return ballast


@pytest.mark.root
@pytest.mark.parametrize("checked", [True, False], ids=["seen before", "only found out"])
def test_a_full_disk(
    checked: bool, small_disk: filesystems.Image, capsys: Said, monkeypatch: pytest.MonkeyPatch
) -> None:
    repository = small_disk.path / "checkpoints"
    if not checked:  # another process takes the last room in the middle of the save
        monkeypatch.setattr(persisting.Persister, "_check_space", lambda *_: None)
    used: list[int] = []
    ballast = small_disk.path / "ballast"

    def break_it() -> None:
        fill(small_disk.path, leave_bytes=300_000)
        used.append(used_bytes(small_disk.path))

    def mend() -> None:
        used.append(used_bytes(small_disk.path))
        ballast.unlink()

    faulty(repository, break_it, mend, keep="last 2")
    why = "checkpoint of 1 MB and the 0 MB that are kept free" if checked else "no space is left"
    check_recovered(repository, capsys.readouterr().err, why)
    assert used[1] <= used[0] + 64 * 1024, "failed saves left something behind"


@pytest.mark.root
def test_a_file_system_remounted_read_only(small_disk: filesystems.Image, capsys: Said) -> None:
    repository = small_disk.path / "checkpoints"
    faulty(repository, lambda: small_disk.remount("ro"), lambda: small_disk.remount("rw"))
    check_recovered(repository, capsys.readouterr().err, "the file system is read-only")


def test_a_folder_that_vanishes_and_comes_back(tmp_path: Path, capsys: Said) -> None:
    repository, away = tmp_path / "checkpoints", tmp_path / "away"
    faulty(repository, lambda: repository.rename(away), lambda: away.rename(repository))
    check_recovered(repository, capsys.readouterr().err, "has vanished")
    assert not away.exists()


def test_an_empty_folder_in_its_place_is_not_written_to(tmp_path: Path, capsys: Said) -> None:
    repository, away = tmp_path / "checkpoints", tmp_path / "away"

    def swap() -> None:
        repository.rename(away)
        repository.mkdir()

    def swap_back() -> None:
        assert not list(repository.rglob("*.manifest"))
        shutil.rmtree(repository)
        away.rename(repository)

    faulty(repository, swap, swap_back)
    check_recovered(repository, capsys.readouterr().err, "have vanished")


def as_nobody(action: Callable[[Path, Tell], None]) -> tuple[int, str]:
    """In a process without root's rights, in a folder of its own."""
    folder = Path(tempfile.mkdtemp())
    os.chown(folder, 65534, 65534)

    def run(tell: Tell) -> None:
        os.setgid(65534)
        os.setuid(65534)
        action(folder, tell)

    try:
        process = launch(run)
        return process.wait(), process.said
    finally:
        shutil.rmtree(folder)


@pytest.mark.root
def test_permission_taken_away_and_given_back() -> None:
    def action(folder: Path, tell: Tell) -> None:
        repository = folder / "checkpoints"

        def all_to(mode: int) -> None:
            for path in [repository, *(p for p in repository.rglob("*") if p.is_dir())]:
                path.chmod(mode)

        faulty(repository, lambda: all_to(0o500), lambda: all_to(0o700))
        assert steps_in(repository)[-1] == 20

    code, said = as_nobody(action)
    assert code == 0, said
    assert "permission was denied" in said
    assert said.count("could not be saved") <= 4
    assert "works again at step 16" in said


def test_a_limit_of_file_sizes(tmp_path: Path) -> None:
    def train(_: Tell) -> None:
        hard = resource.getrlimit(resource.RLIMIT_FSIZE)[1]
        limit = lambda n: resource.setrlimit(resource.RLIMIT_FSIZE, (n, hard))  # noqa: E731  # one word
        faulty(tmp_path, lambda: limit(200_000), lambda: limit(hard))

    process = launch(train)
    assert process.wait() == 0, process.said
    check_recovered(tmp_path, process.said, "the file-size limit was reached")
    run = run_of(tmp_path)
    held = {name for c in run.checkpoints() for name in run.hints(c)}
    assert {p.stem for p in (tmp_path / "packs").rglob("*.pack")} == held


# -- asked for, at the end, and for those who prefer to stop -------------------------------


def test_the_final_save_insists(tmp_path: Path) -> None:
    repository, away = tmp_path / "checkpoints", tmp_path / "away"

    def vanish(ckpt: holdfast.Checkpointer, t: int) -> None:
        if t == 4:
            repository.rename(away)

    with pytest.raises(holdfast.StorageError, match="vanished"):
        count(repository, each=vanish, save="every 1 step")
    away.rename(repository)
    assert steps_in(repository)[-1] == 4
    assert count(repository)["log"] == list(range(6))


def test_a_failed_final_save_is_not_recorded_as_finished(small_file_limit: Path) -> None:
    run = run_of(small_file_limit)
    (end,) = run.ends().values()
    assert not end.done
    assert end.cause.startswith("StorageError")


@pytest.fixture
def small_file_limit(tmp_path: Path) -> Path:
    """A repository whose run could not save its end, though its small records could be written."""

    def train(_: Tell) -> None:
        resource.setrlimit(resource.RLIMIT_FSIZE, (200_000, resource.getrlimit(resource.RLIMIT_FSIZE)[1]))
        count(tmp_path, size=SIZE, save=None)

    process = launch(train)
    assert process.wait() == 1
    assert "StorageError" in process.said
    return tmp_path


def test_on_fault_raise_stops_the_training(tmp_path: Path) -> None:
    repository, away = tmp_path / "checkpoints", tmp_path / "away"
    turns: list[int] = []

    def vanish(ckpt: holdfast.Checkpointer, t: int) -> None:
        turns.append(t)
        if t == 3:
            repository.rename(away)

    with pytest.raises(holdfast.StorageError, match="vanished"):
        count(repository, each=vanish, save="every 1 step", on_fault="raise")
    assert turns == [0, 1, 2, 3]
    away.rename(repository)
    assert count(repository)["log"] == list(range(6))


def test_a_save_that_was_asked_for_carries_its_error_and_is_told_every_time(
    tmp_path: Path, capsys: Said
) -> None:
    repository, away = tmp_path / "checkpoints", tmp_path / "away"
    asked: list[holdfast.Save] = []

    def ask(ckpt: holdfast.Checkpointer, t: int) -> None:
        if t == 2:
            repository.rename(away)
        if 2 <= t < 9:
            asked.append(ckpt.save())
        if t == 9:
            away.rename(repository)

    count(repository, until=12, save=None, each=ask)
    assert capsys.readouterr().err.count("could not be saved") == len(asked) == 7
    for save in asked:
        with pytest.raises(holdfast.StorageError, match="vanished"):
            save.wait_durable()
    assert steps_in(repository) == [12]


def test_sigterm_while_storage_fails_says_that_nothing_was_saved(tmp_path: Path) -> None:
    repository, away = tmp_path / "checkpoints", tmp_path / "away"

    def train(_: Tell) -> None:
        def each(ckpt: holdfast.Checkpointer, t: int) -> None:
            if t == 2:
                repository.rename(away)
            if t == 4:
                os.kill(os.getpid(), 15)
            time.sleep(0.1)

        count(repository, until=9, save="every 1 step", each=each)

    process = launch(train)
    assert process.wait() == 143
    assert "step 5 of main could not be saved" in process.said
    away.rename(repository)
    assert count(repository)["log"] == list(range(6))
