"""What every storage must do, run against each of them."""

from __future__ import annotations

import threading
import uuid
from collections.abc import Callable, Iterator
from itertools import pairwise, product
from pathlib import Path

import msgspec
import numpy as np
import pytest
from obstore.store import MemoryStore
from tests import google_rules, node_servers, oss_rules, s3_server

from holdfast.errors import HoldfastError, NotFoundError, UsageError
from holdfast.storage.base import Storage
from holdfast.storage.buckets import open_bucket
from holdfast.storage.conditions import IfNoneMatch
from holdfast.storage.local import LocalStorage
from holdfast.storage.memory import MemoryStorage
from holdfast.storage.objects import ObjectStorage
from holdfast.storage.probe import Features, probe
from holdfast.storage.sealed import SealedStorage
from simulated_store import SimulatedDisk, SimulatedStore

WITHOUT: dict[str, tuple[str, ...]] = {
    "all": (),
    "no-direct": ("direct",),
    "no-tmpfile": ("unnamed_files",),
    "no-links": ("unnamed_files", "hard_links"),
    "no-links-no-exclusive-rename": ("unnamed_files", "hard_links", "exclusive_rename"),
    "no-directory-sync": ("directory_sync",),
    "nothing-but-locks": (
        "direct",
        "unnamed_files",
        "hard_links",
        "exclusive_rename",
        "directory_sync",
    ),
    "no-locks": ("exclusive_locks",),
}


def local(names: tuple[str, ...]) -> Callable[[Path], Storage]:
    def make(folder: Path) -> Storage:
        features = msgspec.structs.replace(probe(folder), **dict.fromkeys(names, False))
        return LocalStorage(folder / "repository", features=features, create=True)

    return make


def objects_in_memory(folder: Path) -> Storage:
    store = MemoryStore()
    return ObjectStorage(store, [IfNoneMatch(store)], "objects in memory")


def sealed(inner: Storage) -> Storage:
    return SealedStorage(inner, bytes(range(32)), "0" * 32)


MAKERS: dict[str, Callable[[Path], Storage]] = {
    **{f"local-{name}": local(names) for name, names in WITHOUT.items()},
    "local-probed": lambda folder: LocalStorage(folder / "repository", create=True),
    "memory": lambda folder: MemoryStorage(),
    "objects": objects_in_memory,
    "sealed-memory": lambda folder: sealed(MemoryStorage()),
    "sealed-local": lambda folder: sealed(local(())(folder)),
    "sealed-local-nothing-but-locks": lambda folder: sealed(local(WITHOUT["nothing-but-locks"])(folder)),
    "sealed-objects": lambda folder: sealed(objects_in_memory(folder)),
    "simulated": lambda folder: SimulatedStore(),
    "simulated-locks": lambda folder: SimulatedStore(SimulatedDisk(has_locks=True)),
}


def azure(endpoint: str) -> Storage:
    return open_bucket(f"az://{node_servers.CONTAINER}/{uuid.uuid4().hex}?endpoint={endpoint}")


def google(endpoint: str) -> Storage:
    google_rules.set_credentials()
    return open_bucket(f"gs://{google_rules.BUCKET}/{uuid.uuid4().hex}?endpoint={endpoint}")


def s3(endpoint: str, bucket: str = s3_server.BUCKET) -> Storage:
    return open_bucket(s3_server.url(endpoint, uuid.uuid4().hex, bucket))


SERVED: dict[str, tuple[str, Callable[[str], Storage]]] = {
    "s3": ("s3", s3),
    "sealed-s3": ("s3", lambda endpoint: sealed(s3(endpoint))),
    "oss": ("s3", lambda endpoint: s3(endpoint, oss_rules.BUCKET)),
    "google": ("s3", google),
    "azure": ("azure", azure),
}
"""Fixture of the server, and the storage there."""


@pytest.fixture(params=[*MAKERS, *SERVED])
def storage(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Storage]:
    if request.param in SERVED:
        server, make = SERVED[request.param]
        yield make(request.getfixturevalue(server))
        return
    yield MAKERS[request.param](tmp_path)
    # Whatever a test did, no temporary is left.
    left = [path.name for path in tmp_path.rglob(".tmp-*")]
    assert left == []


def noise(size_bytes: int, seed: int = 0) -> bytes:
    return np.random.default_rng(seed).bytes(size_bytes)


def test_what_was_put_is_there(storage: Storage) -> None:
    storage.put("packs/3f/3f9a.pack", [b"one", bytearray(b"two"), memoryview(b"three"), b""])
    assert storage.get("packs/3f/3f9a.pack") == b"onetwothree"
    assert storage.stat("packs/3f/3f9a.pack").size_bytes == 11  # type: ignore[union-attr]


def test_an_empty_object_is_an_object(storage: Storage) -> None:
    storage.put("empty", [])
    assert storage.get("empty") == b""
    assert list(storage.list("")) == ["empty"]
    assert storage.read_into("empty", 0, np.zeros(10, np.uint8)) == 0


def test_put_replaces(storage: Storage) -> None:
    storage.put("a", [b"longer than the new one"])
    storage.put("a", [b"new"])
    assert storage.get("a") == b"new"


def test_put_if_absent_never_replaces(storage: Storage) -> None:
    assert storage.put_if_absent("runs/x/1", b"first") is True
    assert storage.put_if_absent("runs/x/1", b"second") is False
    assert storage.get("runs/x/1") == b"first"


def test_one_of_many_creators_wins(storage: Storage) -> None:
    won: list[int] = []
    barrier = threading.Barrier(8)

    def create(number: int) -> None:
        barrier.wait()
        if storage.put_if_absent("claim", str(number).encode() * 1000):
            won.append(number)

    threads = [threading.Thread(target=create, args=(number,)) for number in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(won) == 1
    assert storage.get("claim") == str(won[0]).encode() * 1000


@pytest.mark.parametrize("size_bytes", [1, 4095, 4096, 3 << 20, (4 << 20) + 4096, (9 << 20) + 777])
@pytest.mark.parametrize("misaligned_bytes", [0, 64])
def test_large_streams_return_bit_for_bit(storage: Storage, size_bytes: int, misaligned_bytes: int) -> None:
    raw = np.frombuffer(bytearray(noise(size_bytes + 8192)), np.uint8)
    start = -raw.ctypes.data % 4096 + misaligned_bytes
    source = raw[start : start + size_bytes]
    cuts = sorted({0, min(16, size_bytes), size_bytes // 3, size_bytes})
    storage.put("big", (source[low:high] for low, high in pairwise(cuts)))
    assert storage.stat("big").size_bytes == size_bytes  # type: ignore[union-attr]
    back = np.zeros(size_bytes + 100, np.uint8)
    assert storage.read_into("big", 0, back) == size_bytes
    assert np.array_equal(back[:size_bytes], source)


def test_a_part_may_be_reused_once_the_next_is_asked_for(storage: Storage) -> None:
    buffer = np.zeros(2 << 20, np.uint8)

    def parts() -> Iterator[np.ndarray[tuple[int], np.dtype[np.uint8]]]:
        for value in range(1, 6):
            buffer[:] = value
            yield buffer

    storage.put("reused", parts())
    expected = np.repeat(np.arange(1, 6, dtype=np.uint8), 2 << 20)
    assert storage.get("reused") == expected.tobytes()


def test_any_range_reads_into_any_address(storage: Storage) -> None:
    data = noise(4 << 20)
    storage.put("big", [data])
    starts, sizes_bytes = (0, 1, 511, 512, 4097, (3 << 20) + 5), (1, 4096, (1 << 20) + 13, 2 << 20)
    for start, size_bytes, address in product(starts, sizes_bytes, (0, 64, 513)):
        arena = np.full(size_bytes + 12288, 7, np.uint8)
        low = -arena.ctypes.data % 4096 + address
        want = data[start : start + size_bytes]
        assert storage.read_into("big", start, arena[low : low + size_bytes]) == len(want)
        assert arena[low : low + len(want)].tobytes() == want
        assert (arena[:low] == 7).all()
        assert (arena[low + size_bytes :] == 7).all()


def test_ranges(storage: Storage) -> None:
    storage.put("a", [b"0123456789"])
    assert storage.get("a", 2, 5) == b"234"
    assert storage.get("a", 7) == b"789"
    assert storage.get("a", 7, 99) == b"789"
    assert storage.get("a", 10) == b""
    assert storage.get("a", 99, 100) == b""
    assert storage.get("a", 5, 2) == b""
    assert storage.read_into("a", 99, np.zeros(3, np.uint8)) == 0


def test_absent_objects(storage: Storage) -> None:
    storage.put("there/it/is", [b"x"])
    for key in ("nowhere", "no/such/folder", "there", "there/it"):
        assert storage.stat(key) is None
        with pytest.raises((NotFoundError, HoldfastError)):
            storage.get(key)
    with pytest.raises(NotFoundError, match="no/such/folder"):
        storage.get("no/such/folder")
    with pytest.raises(NotFoundError):
        storage.read_into("nowhere", 0, np.zeros(2 << 20, np.uint8))
    assert list(storage.list("no/such/")) == []


def test_delete(storage: Storage) -> None:
    storage.put("a/b", [b"x"])
    storage.put("a/c", [b"x"])
    storage.delete("a/b")
    storage.delete("a/b")
    storage.delete("never/was")
    assert list(storage.list("")) == ["a/c"]
    assert storage.put_if_absent("a/b", b"again") is True


def test_list_sorts_whole_keys_and_starts_after(storage: Storage) -> None:
    keys = ["a", "a.b", "a/b", "a/b.c", "a/b/c", "a0", "b/1", "b/10", "b/2", "é/ü"]
    keys = [key for key in keys if key not in ("a", "a/b")]  # on disk a name is file or folder
    for key in reversed(keys):
        storage.put(key, [b"x"])
    assert list(storage.list("")) == sorted(keys)
    assert list(storage.list("b/")) == ["b/1", "b/10", "b/2"]
    for mark in [*keys, "", "a/", "a/b/", "a/b/zz", "b", "zzz", "é"]:
        assert list(storage.list("", mark)) == [key for key in sorted(keys) if key > mark]
        assert list(storage.list("a/", mark)) == [
            key for key in sorted(keys) if key > mark and key.startswith("a/")
        ]


def test_list_tolerates_deletion_meanwhile(storage: Storage) -> None:
    keys = [f"f{n // 10}/{n:03}" for n in range(50)]
    for key in keys:
        storage.put(key, [b"x"])
    seen = []
    for key in storage.list(""):
        seen.append(key)
        storage.delete(keys[-1])
    assert set(keys[:-1]) <= set(seen)
    assert seen == sorted(seen)


REFUSED_KEYS = [
    *("", "/etc/passwd", "../x", "a/../b", "a//b", "a/", "./a", "a\0b", "x" * 256, "a/" * 2000 + "a"),
    *("\ud800", ".tmp-1", "a/.tmp-x/b", "staging/x.lock"),
]


@pytest.mark.parametrize("key", REFUSED_KEYS, ids=[str(n) for n in range(len(REFUSED_KEYS))])
def test_keys_that_could_leave_or_clash_are_refused(storage: Storage, key: str) -> None:
    for use in (
        lambda: storage.put(key, [b"x"]),
        lambda: storage.put_if_absent(key, b"x"),
        lambda: storage.get(key),
        lambda: storage.stat(key),
        lambda: storage.delete(key),
    ):
        with pytest.raises(UsageError):
            use()


def test_a_prefix_names_a_folder(storage: Storage) -> None:
    for prefix in ("a", "../", "/", "a//"):
        with pytest.raises(UsageError):
            list(storage.list(prefix))


@pytest.mark.parametrize("size_bytes", [10, 5 << 20])
@pytest.mark.parametrize("error", [ValueError("mine"), TimeoutError("mine"), KeyboardInterrupt()])
def test_a_producer_that_raises_leaves_nothing(
    storage: Storage, size_bytes: int, error: BaseException
) -> None:
    def parts() -> Iterator[bytes]:
        yield noise(size_bytes)
        raise error

    storage.put("old", [b"kept"])
    for key in ("old", "new"):
        with pytest.raises(type(error)) as caught:
            storage.put(key, parts())
        assert caught.value is error
    assert list(storage.list("")) == ["old"]
    assert storage.get("old") == b"kept"


def test_time_and_room(storage: Storage) -> None:
    before = storage.now_seconds()
    storage.put("a", [b"x"])
    modified = storage.stat("a").modified_seconds  # type: ignore[union-attr]
    assert before - 1 <= modified <= storage.now_seconds() + 1
    free = storage.free_bytes()
    assert free is None or free > 0
    assert storage.location


def test_locks_exclude_threads(storage: Storage) -> None:
    with storage.lock("run:sweep/lr3", shared=False, wait_seconds=0) as first:
        assert first is storage.exclusive_locks
        for shared in (False, True):
            with storage.lock("run:sweep/lr3", shared=shared, wait_seconds=0.02) as second:
                assert second is False
        with storage.lock("another", shared=False, wait_seconds=0) as other:
            assert other is storage.exclusive_locks
    with storage.lock("run:sweep/lr3", shared=False, wait_seconds=0) as again:
        assert again is storage.exclusive_locks
    assert list(storage.list("")) == []


def test_shared_locks_share(storage: Storage) -> None:
    with (
        storage.lock("x", shared=True, wait_seconds=0) as first,
        storage.lock("x", shared=True, wait_seconds=0) as second,
        storage.lock("x", shared=False, wait_seconds=0) as exclusive,
    ):
        assert first is second is storage.exclusive_locks
        assert exclusive is False


def test_a_lock_is_let_go_on_an_exception(storage: Storage) -> None:
    with pytest.raises(RuntimeError), storage.lock("x", shared=False, wait_seconds=0):
        raise RuntimeError
    with storage.lock("x", shared=False, wait_seconds=0) as held:
        assert held is storage.exclusive_locks


def test_an_error_inside_a_lock_stays_itself(storage: Storage) -> None:
    error = OSError(5, "mine")
    with pytest.raises(OSError, match="mine") as caught, storage.lock("x", shared=False, wait_seconds=0):
        raise error
    assert caught.value is error


def test_features_say_what_they_replace() -> None:
    nothing = Features(**dict.fromkeys(Features().missing() or WITHOUT["nothing-but-locks"], False))
    assert set(nothing.missing()) == set(WITHOUT["nothing-but-locks"])
    assert Features().missing() == {}
