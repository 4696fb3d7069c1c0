"""Local storage on real file systems that fill up, turn read-only, or lose power."""

from __future__ import annotations

import errno
import os
import threading
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path

import msgspec
import numpy as np
import pytest

from filesystems import FLUSH_ALL, FLUSH_LOG, FLUSH_NOTHING, Image, mounted
from holdfast.errors import StorageError
from holdfast.storage.local import LocalStorage
from holdfast.storage.probe import Features, probe

pytestmark = [
    pytest.mark.root,
    pytest.mark.skipif(os.geteuid() != 0, reason="mounting needs root"),
]

WITHOUT: dict[str, tuple[str, ...]] = {
    "all": (),
    "buffered-named": ("direct", "unnamed_files"),
    "renaming": ("direct", "unnamed_files", "hard_links"),
    "locked-whole-sync": ("direct", "unnamed_files", "hard_links", "exclusive_rename", "directory_sync"),
}
SIZES_BYTES = {"ext4": 48 << 20, "xfs": 64 << 20}


def noise(size_bytes: int, seed: int = 0) -> bytes:
    return np.random.default_rng(seed).bytes(size_bytes)


def opened(root: Path, names: tuple[str, ...]) -> LocalStorage:
    LocalStorage(root, create=True)
    features = msgspec.structs.replace(probe(root), **dict.fromkeys(names, False))
    return LocalStorage(root, features=features)


@pytest.fixture(params=["ext4", "xfs"])
def image(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Image]:
    with mounted(request.param, SIZES_BYTES[request.param], tmp_path) as made:
        yield made


@pytest.mark.parametrize("how", [FLUSH_ALL, FLUSH_LOG, FLUSH_NOTHING])
@pytest.mark.parametrize("without", WITHOUT)
def test_what_put_returned_from_survives_power_loss(image: Image, without: str, how: int) -> None:
    storage = opened(image.path / "repository", WITHOUT[without])
    storage.put("replaced", [b"old"])
    storage.put("gone", [b"x"])
    large = noise((5 << 20) + 123)
    storage.put("packs/3f/new.pack", [large[:7], large[7:]])
    storage.put("replaced", [b"new" * 2000])
    assert storage.put_if_absent("runs/x/checkpoints/1.manifest", b"m" * 5000)
    storage.delete("gone")
    image.lose_power(how)
    again = LocalStorage(image.path / "repository")
    assert list(again.list("")) == ["packs/3f/new.pack", "replaced", "runs/x/checkpoints/1.manifest"]
    assert again.get("packs/3f/new.pack") == large
    assert again.get("replaced") == b"new" * 2000
    assert again.get("runs/x/checkpoints/1.manifest") == b"m" * 5000
    again.put("after", [b"works"])


def test_the_shutdown_loses_what_was_not_synced(image: Image) -> None:
    """Or the tests above would prove nothing."""
    (image.path / "unsynced").write_bytes(b"x" * 5000)
    image.lose_power(FLUSH_NOTHING)
    assert not (image.path / "unsynced").exists()


@pytest.mark.parametrize("without", ["all", "renaming"])
def test_power_loss_amid_writers_tears_nothing(image: Image, without: str) -> None:
    storage = opened(image.path / "repository", WITHOUT[without])
    returned: list[str] = []

    def write(writer: int) -> None:
        for number in range(1000):
            key = f"w{writer}/{number:04}"
            try:
                storage.put(key, [noise(20_000, seed=number)])
            except StorageError:
                return
            returned.append(key)

    writers = [threading.Thread(target=write, args=(writer,)) for writer in range(3)]
    for writer in writers:
        writer.start()
    while len(returned) < 30 and any(writer.is_alive() for writer in writers):
        threading.Event().wait(0.001)
    image.shut_down()
    for writer in writers:
        writer.join()
    image.unmount()
    image.mount()
    again = LocalStorage(image.path / "repository")
    assert set(returned) <= set(again.list(""))
    for key in again.list(""):
        assert again.get(key) == noise(20_000, seed=int(key[-4:]))
    again.sweep_temporaries(older_than_seconds=-60)
    assert list(again.list("staging/")) == []
    assert list(image.path.rglob(".tmp-*")) == []


@pytest.mark.parametrize("without", ["all", "buffered-named"])
def test_a_full_disk_is_said_and_leaves_nothing(image: Image, without: str) -> None:
    storage = opened(image.path / "repository", WITHOUT[without])
    storage.put("packs/kept", [b"kept"])
    free_bytes = storage.free_bytes()
    assert free_bytes is not None
    with pytest.raises(StorageError, match=r"no space is left.*Free space") as caught:
        storage.put("packs/too-big", (noise(1 << 20) for _ in range((free_bytes >> 20) + 2)))
    assert caught.value.errno == errno.ENOSPC
    assert list(storage.list("")) == ["packs/kept"]
    assert list(image.path.rglob(".tmp-*")) == []
    free_again = storage.free_bytes()
    assert free_again is not None
    # XFS gives the space of an unlinked file back in the background.
    assert image.kind == "xfs" or free_again >= free_bytes - (1 << 20)
    storage.put("packs/small", [b"fits"])
    assert storage.get("packs/kept") == b"kept"


def fill(folder: Path) -> None:
    """Take the very last block, and with empty files the last room for names."""
    for piece in (1 << 20, 4096, 1):
        with (
            suppress(OSError),
            (folder / f"ballast{piece}").open("wb", buffering=0) as ballast,
        ):
            while True:
                ballast.write(b"\1" * piece)


def test_a_disk_full_to_the_brim_can_be_pruned(image: Image) -> None:
    root = image.path / "repository"
    LocalStorage(root, create=True).put("packs/old", [noise(5 << 20)])
    fill(image.path)
    storage = LocalStorage(root)
    with pytest.raises(StorageError) as caught:
        storage.put("packs/new", [noise(3 << 20)])
    assert caught.value.errno == errno.ENOSPC
    assert storage.exclusive_locks
    storage.delete("packs/old")
    assert list(storage.list("")) == []


def test_read_only_is_said_and_reading_goes_on(image: Image) -> None:
    storage = LocalStorage(image.path / "repository", create=True)
    storage.put("a", [b"x"])
    image.remount("ro")
    for used in (storage, LocalStorage(image.path / "repository")):
        for change in (
            lambda used=used: used.put("b", [b"x"]),
            lambda used=used: used.put_if_absent("b", b"x"),
            lambda used=used: used.delete("a"),
        ):
            with pytest.raises(StorageError, match="the file system is read-only") as caught:
                change()
            assert caught.value.errno == errno.EROFS
        assert used.get("a") == b"x"
        assert used.read_into("a", 0, np.zeros(2 << 20, np.uint8)) == 1
        for shared in (True, False):
            with pytest.raises(StorageError), used.lock("x", shared=shared, wait_seconds=0):
                pass
    image.remount("rw")
    storage.put("b", [b"works again"])


def test_a_dead_disk_is_an_error_not_an_absence(image: Image) -> None:
    storage = LocalStorage(image.path / "repository", create=True)
    storage.put("runs/a", [b"x"])
    image.shut_down(FLUSH_ALL)
    uses: list[Callable[[], object]] = [
        lambda: storage.put("b", [b"x"]),
        lambda: storage.delete("runs/a"),
    ]
    if image.kind == "xfs":  # ext4 still answers from its caches
        uses.append(lambda: list(storage.list("runs/")))
    for use in uses:
        with pytest.raises(StorageError) as caught:
            use()
        assert caught.value.errno == errno.EIO


def test_probing_tells_file_systems_apart(image: Image) -> None:
    features = probe(image.path)
    assert features.filesystem == image.kind
    assert features.missing() == {}
    assert features.alignment.offset_bytes in (512, 1024, 2048, 4096)
    assert isinstance(features, Features)
    assert {path.name for path in image.path.iterdir()} <= {"lost+found"}
