"""Small parts of the local storage that the contract cannot reach."""

from __future__ import annotations

import errno
import os
import re
import tempfile
from pathlib import Path

import numpy as np
import pytest

from holdfast.errors import HoldfastError, StorageError
from holdfast.storage.direct import (
    BOUNCE_BYTES,
    Alignment,
    Bounces,
    DirectWriter,
    read_buffered,
    read_direct,
)
from holdfast.storage.faults import storage_error, told_plainly
from holdfast.storage.local import LocalStorage
from holdfast.storage.locks import lock_file_name
from holdfast.storage.probe import Features, filesystem_type, locks_exclude, probe

CODES = [
    *(errno.ENOSPC, errno.EDQUOT, errno.EIO, errno.EROFS, errno.EACCES, errno.EPERM, errno.ENOENT),
    *(errno.ESTALE, errno.ENAMETOOLONG, errno.ELOOP, errno.EFBIG, errno.EMFILE, errno.EBUSY),
]


@pytest.mark.parametrize("code", CODES)
def test_an_error_is_one_sentence_and_a_remedy(code: int) -> None:
    told = storage_error(OSError(code, os.strerror(code)), "writing packs/x", "/ckpts")
    assert told.errno == code
    assert re.fullmatch(r"Writing packs/x in /ckpts failed: [^.]+\.", told.what)
    assert told.do is not None
    assert told.do.endswith(".")


def test_errors_of_ours_pass_untouched() -> None:
    error = HoldfastError("Mine.")
    with pytest.raises(HoldfastError) as caught, told_plainly("doing", "here"):
        raise error
    assert caught.value is error


def test_lock_names_are_single_safe_components() -> None:
    names = ["a", "a/b", "..", "%2F", "a%2Fb", "x" * 4000, "x" * 3999, "é", ""]
    files = [lock_file_name(name) for name in names]
    assert len(set(files)) == len(names)
    assert all("/" not in name and len(name) < 255 and name.endswith(".lock") for name in files)


def test_creating_a_root_makes_its_parents(tmp_path: Path) -> None:
    root = tmp_path / "a" / "b" / "c"
    with pytest.raises(StorageError, match="vanished"):
        LocalStorage(root).put("x", [b"x"])
    assert not (tmp_path / "a").exists()
    LocalStorage(root, create=True).put("x", [b"x"])
    LocalStorage(root, create=True)
    assert LocalStorage(root).get("x") == b"x"


def test_a_file_in_the_way_is_said(tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(b"")
    with pytest.raises(StorageError):
        LocalStorage(tmp_path / "file", create=True).put("x", [b"x"])


def test_probe_leaves_nothing_and_reading_needs_none(tmp_path: Path) -> None:
    features = probe(tmp_path)
    assert list(tmp_path.iterdir()) == []
    assert features.directory_sync
    assert locks_exclude(tmp_path) is features.exclusive_locks
    reader = LocalStorage(tmp_path)
    assert list(reader.list("")) == []
    assert reader.stat("x") is None
    assert list(tmp_path.iterdir()) == []


def test_unknown_file_systems_prove_no_locks(tmp_path: Path) -> None:
    assert filesystem_type(Path("/proc/self")) == "proc"
    assert locks_exclude(Path("/proc")) is False
    storage = LocalStorage(tmp_path, features=Features(exclusive_locks=False))
    with storage.lock("x", shared=False, wait_seconds=0) as held:
        assert held is False
    assert list(tmp_path.iterdir()) == []


def test_a_memory_file_system_works_too() -> None:
    with tempfile.TemporaryDirectory(dir="/dev/shm") as folder:
        assert probe(folder).filesystem == "tmpfs"
        storage = LocalStorage(folder)
        data = np.random.default_rng(0).bytes((5 << 20) + 3)
        storage.put("packs/a", [data])
        back = np.zeros(len(data), np.uint8)
        assert storage.read_into("packs/a", 0, back) == len(data)
        assert back.tobytes() == data


def test_what_a_thread_could_not_write_is_told(tmp_path: Path) -> None:
    bounces = Bounces()
    part = np.ones(BOUNCE_BYTES, np.uint8)
    (tmp_path / "file").touch()
    descriptor = os.open(tmp_path / "file", os.O_RDONLY)
    try:
        with DirectWriter(descriptor, Alignment(), bounces) as writer:
            writer.write(part)
            with pytest.raises(OSError, match="Bad file descriptor"):
                writer.write(part)
    finally:
        os.close(descriptor)
    assert bounces.take() is not bounces.take()  # both are back, each once


def test_bounces_are_reused() -> None:
    bounces = Bounces()
    first, second = bounces.take(), bounces.take()
    assert first.ctypes.data % 4096 == second.ctypes.data % 4096 == 0
    bounces.give_back(first)
    assert bounces.take() is first


@pytest.mark.parametrize("alignment", [Alignment(512, 512), Alignment(4096, 4096), Alignment(4, 512)])
def test_direct_ways_agree_with_buffered_ones(tmp_path: Path, alignment: Alignment) -> None:
    """On a file opened without O_DIRECT: every alignment rule can be asked for."""
    data = np.frombuffer(np.random.default_rng(1).bytes((6 << 20) + 100), np.uint8)
    bounces = Bounces()
    descriptor = os.open(tmp_path / "file", os.O_RDWR | os.O_CREAT, 0o600)
    try:
        with DirectWriter(descriptor, alignment, bounces) as writer:
            for low, high in ((0, 12), (12, 12), (12, 2_000_001), (2_000_001, len(data))):
                writer.write(data[low:high])
            writer.finish()
        for start in (0, 1, 4095, 1 << 20):
            arena = np.zeros((5 << 20) + 77, np.uint8)
            for buffer in (arena, arena[64:], arena[3:70_000], arena[:0]):
                for got in (
                    read_direct(descriptor, start, buffer, alignment, bounces),
                    read_buffered(descriptor, start, buffer),
                ):
                    assert got == min(len(buffer), len(data) - start)
                    assert np.array_equal(buffer[:got], data[start : start + got])
    finally:
        os.close(descriptor)


def _read_from_disk_bytes() -> int:
    """By this process so far, whatever it asked for."""
    found = re.search(r"^read_bytes: (\d+)$", Path("/proc/self/io").read_text(), re.MULTILINE)
    assert found is not None
    return int(found[1])


def test_who_wants_the_front_of_a_file_does_not_read_all_of_it(tmp_path: Path) -> None:
    storage = LocalStorage(tmp_path)
    data = os.urandom(1 << 20)
    for number in range(8):
        storage.put(f"manifests/{number}", [data])
        with (tmp_path / f"manifests/{number}").open("rb") as file:
            os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)
    before = _read_from_disk_bytes()
    for number in range(8):
        assert storage.get(f"manifests/{number}", 0, 8192) == data[:8192]
    assert _read_from_disk_bytes() - before <= 8 * 16384
