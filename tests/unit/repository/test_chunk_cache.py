"""The cache never gives anything but the chunk, keeps its limit, and is in nobody's way."""

from __future__ import annotations

import os
import random
from pathlib import Path

import blake3
import numpy as np
import pytest

from checkpoints import begin, make_repository, save
from holdfast.errors import UsageError
from holdfast.repository import layout
from holdfast.repository.chunk_cache import ChunkCache, chosen_cache
from holdfast.repository.chunks import ChunkReader
from holdfast.repository.index import ChunkIndex
from holdfast.repository.run import Run
from holdfast.storage.memory import MemoryStorage
from simulated_store import SimulatedDisk, SimulatedStore


def chunk(seed: int, size: int = 1000) -> tuple[bytes, np.ndarray]:
    data = random.Random(seed).randbytes(size)
    return blake3.blake3(data).digest(), np.frombuffer(data, np.uint8)


def files(folder: Path) -> list[Path]:
    return [path for path in folder.rglob("*") if path.is_file()]


def test_what_is_kept_is_there_for_its_owner_only(tmp_path: Path) -> None:
    cache = ChunkCache(tmp_path / "cache")
    digest, data = chunk(1)
    assert cache.take(digest) is None
    cache.keep(digest, data)
    found = ChunkCache(tmp_path / "cache").take(digest)
    assert found is not None
    assert (found == data).all()
    (file,) = files(tmp_path)
    assert file.stat().st_mode & 0o777 == 0o600
    assert file.parent.stat().st_mode & 0o777 == 0o700


@pytest.mark.parametrize("damage", ["flip", "cut", "empty", "other"])
def test_what_is_damaged_is_not_given_and_goes(tmp_path: Path, damage: str) -> None:
    cache = ChunkCache(tmp_path)
    digest, data = chunk(1)
    cache.keep(digest, data)
    (file,) = files(tmp_path)
    bad = {"flip": bytes([data[0] ^ 1]) + data[1:].tobytes(), "cut": data[:-1].tobytes(), "empty": b""}
    file.write_bytes(bad.get(damage, chunk(2)[1].tobytes()))
    assert cache.take(digest) is None
    assert files(tmp_path) == []


def test_a_giant_is_not_read(tmp_path: Path) -> None:
    cache = ChunkCache(tmp_path)
    digest, data = chunk(1)
    cache.keep(digest, data)
    (file,) = files(tmp_path)
    os.truncate(file, 1 << 40)
    assert cache.take(digest) is None


def test_the_least_recently_used_go(tmp_path: Path) -> None:
    cache = ChunkCache(tmp_path, limit_bytes=5000)
    chunks = [chunk(seed) for seed in range(6)]
    for age, (digest, data) in enumerate(chunks):
        cache.keep(digest, data)
        os.utime(tmp_path / digest.hex()[:2] / digest.hex(), (1000 + age, 1000 + age))
    assert cache.take(chunks[0][0]) is not None  # used now
    cache.trim()
    left = [number for number, (digest, _) in enumerate(chunks) if cache.take(digest) is not None]
    assert left == [0, 3, 4, 5]
    cache.trim()
    assert len(files(tmp_path)) == 4


def test_what_a_killed_process_left_goes_when_it_is_old(tmp_path: Path) -> None:
    cache = ChunkCache(tmp_path)
    cache.keep(*chunk(1))
    (file,) = files(tmp_path)
    old, new = (file.with_name(f".tmp-{name}") for name in ("old", "new"))
    for path in (old, new):
        path.write_bytes(b"half")
    os.utime(old, (1000, 1000))
    cache.trim()
    assert set(files(tmp_path)) == {file, new}


def test_a_disk_that_refuses_is_all_right(tmp_path: Path) -> None:
    (tmp_path / "cache").write_text("a file")
    cache = ChunkCache(tmp_path / "cache")
    digest, data = chunk(1)
    cache.keep(digest, data)
    assert cache.take(digest) is None
    cache.trim()


@pytest.fixture
def run() -> Run:
    made = make_repository(MemoryStorage()).run("digits")
    attempt = begin(made)
    for number in (1, 2):
        save(made, attempt, number, number * 100)
    return made


def pack_reads(store: SimulatedStore) -> int:
    return sum(verb in ("get", "read_into") and key.startswith(layout.PACKS) for verb, key in store.log)


def test_what_was_read_once_is_not_asked_of_the_store_again(run: Run, tmp_path: Path) -> None:
    disk = SimulatedDisk()
    for key in run.storage.list(""):
        disk.change(key, run.storage.get(key), durable=True)
    wanted = run.manifest(run.resolve(200)).digests()
    got: set[bytes] = set()

    def sink(digest: bytes, data: np.ndarray) -> None:
        assert blake3.blake3(data.tobytes()).digest() == digest
        got.add(digest)

    for is_cached in (False, True):
        got.clear()
        store = SimulatedStore(disk)
        reader = ChunkReader(store, ChunkIndex(store), ChunkCache(tmp_path))
        assert reader.read(wanted, run.hints(run.resolve(200)), sink) == {}
        assert got == wanted
        assert (pack_reads(store) == 0) == is_cached


def test_only_what_was_good_is_kept(run: Run, tmp_path: Path) -> None:
    checkpoint = run.resolve(200)
    for pack in run.hints(checkpoint):
        data = bytearray(run.storage.get(layout.pack(pack)))
        data[100] ^= 1
        run.storage.put(layout.pack(pack), [bytes(data)])
    wanted = run.manifest(checkpoint).digests()
    reader = ChunkReader(run.storage, ChunkIndex(run.storage), ChunkCache(tmp_path))
    failed = reader.read(wanted, run.hints(checkpoint), lambda digest, chunk: None)
    assert failed
    assert {path.name for path in files(tmp_path)} == {d.hex() for d in wanted - failed.keys()}


def test_who_has_a_cache_and_who_has_not(tmp_path: Path) -> None:
    class Far(MemoryStorage):
        location = "s3://bucket/x"

    chosen = {"HOLDFAST_CACHE": str(tmp_path)}
    assert chosen_cache(Far(), {}) is None
    assert chosen_cache(MemoryStorage(), chosen) is None
    assert isinstance(chosen_cache(Far(), chosen), ChunkCache)
    with pytest.raises(UsageError, match="is no size"):
        chosen_cache(Far(), chosen | {"HOLDFAST_CACHE_LIMIT": "much"})
