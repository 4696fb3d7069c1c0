"""What rests sealed tells nothing, and whatever is done to it is noticed."""

from __future__ import annotations

import secrets
from collections.abc import Callable
from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from holdfast.errors import DamagedError, NotFoundError
from holdfast.storage.frames import FRAME_BYTES, HEADER_BYTES, LEAST_BYTES, TAG_BYTES
from holdfast.storage.local import LocalStorage
from holdfast.storage.memory import MemoryStorage
from holdfast.storage.sealed import SealedStorage, at_rest

SECRET = bytes(range(32))
ID = "0" * 32
DATA_BYTES = FRAME_BYTES - TAG_BYTES
FIRST_BYTES = DATA_BYTES - HEADER_BYTES
EDGES = sorted(
    {
        n + d
        for n in (0, FIRST_BYTES, FIRST_BYTES + DATA_BYTES, 3 * FRAME_BYTES)
        for d in (-1, 0, 1)
        if n + d >= 0
    }
)


def noise(size_bytes: int) -> bytes:
    return np.random.default_rng(size_bytes).bytes(size_bytes)


def sealed(
    inner: MemoryStorage | None = None, secret: bytes = SECRET, repository_id: str = ID
) -> SealedStorage:
    return SealedStorage(inner or MemoryStorage(), secret, repository_id)


@pytest.mark.parametrize("size_bytes", EDGES)
def test_sizes_at_the_edges_of_frames(size_bytes: int) -> None:
    storage = sealed()
    storage.put("a", [noise(size_bytes)])
    assert storage.get("a") == noise(size_bytes)
    assert storage.stat("a").size_bytes == size_bytes  # type: ignore[union-attr]
    rests = storage.inner.stat("a").size_bytes  # type: ignore[union-attr]
    frames = max(-(-(size_bytes + HEADER_BYTES) // DATA_BYTES), 1)
    assert rests == size_bytes + HEADER_BYTES + frames * TAG_BYTES


@given(
    st.integers(0, 3 * FRAME_BYTES),
    st.lists(st.integers(0, 3 * FRAME_BYTES), max_size=5),
    st.integers(0, 3 * FRAME_BYTES),
    st.integers(0, 3 * FRAME_BYTES),
)
@settings(max_examples=60)
def test_any_range_of_what_came_in_any_parts(size: int, cuts: list[int], start: int, length: int) -> None:
    storage, data = sealed(), noise(size)
    marks = sorted({0, size, *(c for c in cuts if c < size)})
    storage.put("a", [data[low:high] for low, high in pairwise(marks)])
    assert storage.get("a", start, start + length) == data[start : start + length]
    buffer = np.zeros(length, np.uint8)
    got = storage.read_into("a", start, buffer)
    assert buffer[:got].tobytes() == data[start : start + length]


def test_nothing_of_the_contents_rests_and_twice_is_never_the_same() -> None:
    storage = sealed()
    data = b"the weights of a secret model" * 10_000
    storage.put("a", [data])
    storage.put("b", [data])
    first, second = storage.inner.get("a"), storage.inner.get("b")
    assert b"secret" not in first
    blocks = {first[at : at + 16] for at in range(0, len(first) - 16, 16)}
    assert len(blocks) > len(first) // 16 - 2
    assert first[HEADER_BYTES:] != second[HEADER_BYTES:]


def flip(at: int) -> Callable[[bytes], bytes]:
    return lambda data: data[:at] + bytes([data[at] ^ 1]) + data[at + 1 :]


SIZE = FIRST_BYTES + DATA_BYTES + 1000
CHANGES: dict[str, Callable[[bytes], bytes]] = {
    "magic": flip(0),
    "salt": flip(20),
    "first frame": flip(HEADER_BYTES),
    "tag": flip(FRAME_BYTES - 1),
    "middle": flip(FRAME_BYTES + 5000),
    "last byte": flip(-1 % (SIZE + HEADER_BYTES + 3 * TAG_BYTES)),
    "cut": lambda data: data[:-1],
    "cut at a frame": lambda data: data[: 2 * FRAME_BYTES],
    "cut to the header": lambda data: data[:HEADER_BYTES],
    "emptied": lambda data: b"",
    "longer": lambda data: data + b"\0",
    "a frame twice": lambda data: data[: 2 * FRAME_BYTES] + data[FRAME_BYTES:],
    "a frame left out": lambda data: data[:FRAME_BYTES] + data[2 * FRAME_BYTES :],
    "frames swapped": lambda data: (
        data[:FRAME_BYTES] + data[2 * FRAME_BYTES :] + data[FRAME_BYTES : 2 * FRAME_BYTES]
    ),
}


@pytest.mark.parametrize("change", CHANGES)
def test_whatever_was_changed_is_damage(change: str) -> None:
    storage = sealed()
    storage.put("a", [noise(SIZE)])
    storage.inner.put("a", [CHANGES[change](storage.inner.get("a"))])
    for _ in range(2):  # nothing remembered helps
        with pytest.raises(DamagedError, match=r"a in .* does not unseal"):
            storage.get("a")
        try:
            buffer = np.zeros(SIZE, np.uint8)
            got = storage.read_into("a", 0, buffer)
        except DamagedError:
            continue
        assert got < SIZE or change == "longer"


def test_ranges_that_do_not_touch_the_damage_are_read() -> None:
    storage = sealed()
    storage.put("a", [noise(SIZE)])
    storage.inner.put("a", [flip(FRAME_BYTES + 5)(storage.inner.get("a"))])
    assert storage.get("a", 0, FIRST_BYTES) == noise(SIZE)[:FIRST_BYTES]
    assert storage.get("a", FIRST_BYTES + DATA_BYTES) == noise(SIZE)[FIRST_BYTES + DATA_BYTES :]
    for start in (FIRST_BYTES - 1, FIRST_BYTES, FIRST_BYTES + DATA_BYTES - 1):
        with pytest.raises(DamagedError):
            storage.get("a", start, start + 2)


def test_an_object_under_another_name_secret_or_repository_does_not_open() -> None:
    inner = MemoryStorage()
    mine = sealed(inner)
    mine.put("runs/a/tags/best.json", [b"x"])
    mine.put("runs/a/tags/old.json", [b"y"])
    for storage in (sealed(inner, secret=secrets.token_bytes(32)), sealed(inner, repository_id="1" * 32)):
        with pytest.raises(DamagedError):
            storage.get("runs/a/tags/best.json")
    assert mine.get("runs/a/tags/best.json") == b"x"
    inner.put("runs/a/tags/best.json", [inner.get("runs/a/tags/old.json")])
    with pytest.raises(DamagedError):
        mine.get("runs/a/tags/best.json")


def test_replaced_between_two_reads_from_the_middle() -> None:
    storage = sealed()
    for data in (noise(SIZE), noise(SIZE + 1)):
        storage.put("a", [data])
        assert storage.get("a", FIRST_BYTES, FIRST_BYTES + 10) == data[FIRST_BYTES : FIRST_BYTES + 10]
    SealedStorage(storage.inner, SECRET, ID).put("a", [noise(SIZE)])  # by another process
    with pytest.raises(DamagedError):
        storage.get("a", FIRST_BYTES, FIRST_BYTES + 10)
    assert storage.get("a", FIRST_BYTES, FIRST_BYTES + 10) == noise(SIZE)[FIRST_BYTES : FIRST_BYTES + 10]


def test_what_everybody_needs_to_open_it_is_open() -> None:
    storage = sealed()
    storage.put_if_absent("holdfast.json", b"{}")
    storage.put("keys/1.json", [b"key"])
    assert storage.inner.get("holdfast.json") == b"{}"
    assert storage.get("keys/1.json", 1) == storage.inner.get("keys/1.json")[1:]
    assert storage.read_into("keys/1.json", 0, np.zeros(3, np.uint8)) == 3
    assert storage.stat("keys/1.json").size_bytes == 3  # type: ignore[union-attr]


def test_junk_is_no_object(tmp_path: object) -> None:
    storage = sealed()
    for size_bytes in (
        0,
        1,
        HEADER_BYTES,
        LEAST_BYTES - 1,
        LEAST_BYTES,
        FRAME_BYTES + 1,
        FRAME_BYTES + TAG_BYTES,
    ):
        storage.inner.put("junk", [noise(size_bytes)])
        assert storage.stat("junk").size_bytes >= 0  # type: ignore[union-attr]
        with pytest.raises(DamagedError):
            storage.get("junk")
        with pytest.raises(DamagedError):
            storage.read_into("junk", 0, np.zeros(10, np.uint8))
    with pytest.raises(NotFoundError):
        storage.get("nothing", 1 << 20)


@given(st.binary(max_size=300), st.integers(0, 400), st.integers(0, 400))
@settings(max_examples=200)
def test_arbitrary_bytes_are_refused_whatever_is_asked(junk: bytes, start: int, length: int) -> None:
    storage = sealed()
    storage.inner.put("a", [b"HFSEAL\x00\x01"[: len(junk)] + junk])
    if length:
        with pytest.raises(DamagedError):
            storage.get("a", start, start + length)


def test_it_shows_no_secret(tmp_path: object) -> None:
    assert SECRET.hex() not in repr(sealed())
    assert repr(SECRET) not in repr(vars(sealed())["_lock"])


def test_large_objects_on_a_disk(tmp_path) -> None:  # type: ignore[no-untyped-def]
    storage = SealedStorage(LocalStorage(tmp_path / "there", create=True), SECRET, ID)
    data = noise(11 << 20)
    storage.put("big", (data[at : at + (1 << 20)] for at in range(0, len(data), 1 << 20)))
    buffer = np.zeros(len(data) + 5, np.uint8)
    assert storage.read_into("big", 0, buffer) == len(data)
    assert buffer[: len(data)].tobytes() == data
    assert at_rest(storage).stat("big").size_bytes % FRAME_BYTES != 0  # type: ignore[union-attr]
