"""A disk that fills up in the middle of a save: one clear error, nothing lost, nothing left."""

from __future__ import annotations

import errno
import os
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from checkpoints import begin, make_repository, make_state, orphans, packs, prune, read, save
from filesystems import Image, mounted
from holdfast.errors import StorageError
from holdfast.repository import adopting, compact, writing
from holdfast.repository.index import present_packs
from holdfast.repository.repository import Repository
from holdfast.repository.retention import packs_of
from holdfast.repository.run import Run
from holdfast.repository.sync_plan import Route
from holdfast.repository.syncing import sync_run
from holdfast.storage.local import LocalStorage
from holdfast.storage.memory import MemoryStorage

pytestmark = [pytest.mark.root, pytest.mark.skipif(os.geteuid() != 0, reason="mounting needs root")]

SIZES_BYTES = {"ext4": 24 << 20, "xfs": 64 << 20}


@pytest.fixture(params=["ext4", "xfs"])
def image(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Image]:
    with mounted(request.param, SIZES_BYTES[request.param], tmp_path) as made:
        yield made


def opened(image: Image) -> Run:
    return make_repository(LocalStorage(image.path / "repository", create=True)).run("digits")


def large_state(size_bytes: int, seed: int) -> dict[str, bytes]:
    piece = size_bytes // 8
    return {f"t{n}": os.urandom(piece) for n in range(8)} | {"seed": b"%d" % seed}


def used_bytes(image: Image) -> int:
    room = os.statvfs(image.path)
    return (room.f_blocks - room.f_bfree) * room.f_frsize


def wait_until_used_is_at_most(image: Image, limit_bytes: int) -> None:
    """XFS frees the blocks of deleted files a moment later."""
    deadline = time.monotonic() + 10
    while used_bytes(image) > limit_bytes and time.monotonic() < deadline:
        time.sleep(0.02)
    assert used_bytes(image) <= limit_bytes


def test_a_full_disk_fails_the_save_and_nothing_else(image: Image, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(writing, "PACK_BYTES", 2 << 20)  # several packs are whole when one fails
    run = opened(image)
    attempt = begin(run)
    kept = [save(run, attempt, n, n).id for n in (1, 2)]
    free_bytes = run.storage.free_bytes()
    assert free_bytes is not None
    before, used = packs(run.storage), used_bytes(image)
    for sequence in (3, 4, 5):  # again and again: what failed must give its space back
        with pytest.raises(StorageError, match="no space is left") as caught:
            save(run, attempt, sequence, sequence, large_state(free_bytes + (4 << 20), sequence))
        assert caught.value.errno == errno.ENOSPC
        assert packs(run.storage) == before
        wait_until_used_is_at_most(image, used + (1 << 20))
    assert run.checkpoints() == kept
    for checkpoint in kept:
        assert read(opened(image), checkpoint) == make_state(checkpoint.step)
    half = large_state(free_bytes // 2, 6)
    made = save(run, attempt, 6, 6, half).id
    assert read(opened(image), made) == half
    assert orphans(run.repository) == set()


def test_a_disk_filled_by_others_to_the_last_block(image: Image) -> None:
    """Not even a manifest fits: whatever was written for it goes, and space that returns is used."""
    run = opened(image)
    attempt = begin(run)
    first = save(run, attempt, 1, 1).id
    filler = image.path / "filler"
    left_bytes = (40 << 10, 24 << 10, 12 << 10, 4 << 10, 0)
    for sequence, left in enumerate(left_bytes, start=2):
        fill(filler, run, left)
        before = set(run.all_checkpoints())
        try:
            save(run, attempt, sequence, sequence)
        except StorageError as error:
            failed = error.errno
            assert failed == errno.ENOSPC  # whether it fits is the file system's affair
            assert set(run.all_checkpoints()) == before
        assert run.latest() in run.all_checkpoints()
        assert read(opened(image), first) == make_state(1)
        prune(run, 1, attempt)  # deleting must work on a full disk
        filler.unlink()
        first = save(run, attempt, 100 + sequence, 100 + sequence, make_state(1)).id
    assert read(opened(image), first) == make_state(1)
    prune(run, 1, attempt, sweep=True)
    assert orphans(run.repository) == set()


def test_a_disk_that_fills_up_during_a_compaction(image: Image) -> None:
    """New packs that do not fit are given up, and nothing else is touched."""
    run = opened(image)
    attempt = begin(run)
    states = {n: {f"t{i}": os.urandom(200_000) + bytes(200_000) for i in range(5)} for n in (1, 2, 3)}
    known = {save(run, attempt, n, n, state).id: state for n, state in states.items()}
    before = packs(run.storage)
    filler = image.path / "filler"
    for left in (0, 12 << 10, 40 << 10, 400 << 10, 1200 << 10):
        fill(filler, run, left)
        with pytest.raises(StorageError) as caught:
            compact.apply(compact.plan(run.repository))
        assert caught.value.errno == errno.ENOSPC
        assert packs(run.storage) == before
        filler.unlink()
        for checkpoint, state in known.items():
            assert read(opened(image), checkpoint) == state
    compact.apply(compact.plan(run.repository))
    assert not before & packs(run.storage)
    assert orphans(run.repository) == set()
    for checkpoint, state in known.items():
        assert read(opened(image), checkpoint) == state


def test_a_disk_that_fills_up_during_a_sync(image: Image, monkeypatch: pytest.MonkeyPatch) -> None:
    """What did not become a checkpoint gives its room back; the next sync brings the rest."""
    monkeypatch.setattr(adopting, "BROUGHT_PACK_BYTES", 128 << 10)
    source = make_repository(MemoryStorage())
    attempt = begin(source.run("digits"))
    states = {n: {f"t{i}": os.urandom(200_000) for i in range(5)} for n in (1, 2)}
    for step, state in states.items():
        save(source.run("digits"), attempt, step, step, state)
    run = opened(image)
    for left in (0, 40 << 10, 400 << 10, 1200 << 10):
        filler = image.path / "filler"
        fill(filler, run, left)
        with pytest.raises(StorageError) as caught:
            sync_run(Route(source, Repository.open(run.storage)), "digits")
        assert caught.value.errno == errno.ENOSPC
        assert {p for c in run.checkpoints() for p in packs_of(run, c)} == set(present_packs(run.storage))
        filler.unlink()
    assert sync_run(Route(source, Repository.open(run.storage)), "digits").failed == {}
    there = opened(image)
    for checkpoint in there.checkpoints():
        assert read(there, checkpoint) == states[checkpoint.step]
    assert len(there.checkpoints()) == 2
    assert orphans(there.repository) == set()


def fill(filler: Path, run: Run, left_bytes: int) -> None:
    """Fill what is free but so much, again after a moment: XFS gives back what was deleted a little later."""
    with filler.open("wb") as file:
        for pause_seconds in (0.3, 0.0):
            for piece_bytes in (1 << 20, 64 << 10, 4 << 10, 512):
                try:
                    while (run.storage.free_bytes() or 0) > left_bytes:
                        os.write(file.fileno(), bytes(piece_bytes))
                        os.fsync(file.fileno())
                except OSError:
                    continue
            time.sleep(pause_seconds)
