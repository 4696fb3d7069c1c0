from __future__ import annotations

from typing import Any

import blake3
import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from holdfast.errors import DamagedError, FormatError, NotFoundError
from holdfast.repository import layout
from holdfast.repository.pack import (
    BASED_TRAILER_MAGIC,
    BLOCK_BYTES,
    MAGIC,
    TRAILER,
    TRAILER_MAGIC,
    PackBuilder,
    PackEntry,
    PackIndex,
    read_index,
)
from holdfast.storage.memory import MemoryStorage

PACK = "0123456789abcdef" * 2


def stored(data: bytes) -> MemoryStorage:
    storage = MemoryStorage()
    storage.put(layout.pack(PACK), [data])
    return storage


def built(*chunks: bytes, name: str = PACK) -> bytes:
    builder = PackBuilder(name)
    parts = [MAGIC]
    for chunk in chunks:
        builder.add(blake3.blake3(chunk).digest(), len(chunk))
        parts.append(chunk)
    return b"".join([*parts, *(bytes(part) for part in builder.finish())])


def sealed(
    index: bytes,
    *,
    start: int = 8,
    length: int | None = None,
    magic: bytes = TRAILER_MAGIC,
    data: bytes = b"",
) -> bytes:
    """A pack with any index, whose digest is right."""
    length = len(index) if length is None else length
    trailer = TRAILER.pack(start + len(data), length, blake3.blake3(index).digest(), magic)
    body = MAGIC + data + index
    return body + bytes(-(len(body) + len(trailer)) % BLOCK_BYTES) + trailer


@pytest.mark.parametrize(
    "chunks", [(), (b"a",), (b"a" * 4096, b"b" * 3), (b"x" * 100_000,), tuple(b"%d" % i for i in range(2000))]
)
def test_a_pack_tells_where_its_chunks_lie(chunks: tuple[bytes, ...]) -> None:
    data = built(*chunks)
    assert len(data) % BLOCK_BYTES == 0
    entries = read_index(stored(data), PACK).entries
    assert [data[e.offset : e.offset + e.stored_bytes] for e in entries] == list(chunks)
    assert [e.digest for e in entries] == [blake3.blake3(c).digest() for c in chunks]


def test_absent_is_not_damaged() -> None:
    with pytest.raises(NotFoundError):
        read_index(MemoryStorage(), PACK)


def test_the_index_of_another_pack_is_damage() -> None:
    with pytest.raises(DamagedError, match=PACK):
        read_index(stored(built(b"x", name="f" * 32)), PACK)


def test_only_both_ends_make_a_newer_version() -> None:
    data = bytearray(built(b"x"))
    data[-1] += 2
    with pytest.raises(DamagedError):
        read_index(stored(bytes(data)), PACK)
    data[7] += 2
    with pytest.raises(FormatError):
        read_index(stored(bytes(data)), PACK)


def based(entries: list[list[Any]]) -> MemoryStorage:
    """A pack of this index, as version 2 writes it."""
    index = msgspec.msgpack.encode({"pack": PACK, "entries": entries})
    return stored(sealed(index, magic=BASED_TRAILER_MAGIC, data=b"x"))


def entry(name: int, *bases: int) -> list[Any]:
    return [bytes([name]) * 32, 8, 0, 0, "delta", b"".join(bytes([n]) * 32 for n in bases)]


def test_bases_are_told() -> None:
    builder = PackBuilder(PACK, based=True)
    first, second = blake3.blake3(b"a").digest(), blake3.blake3(b"b").digest()
    builder.add(first, 1)
    builder.add(second, 1, "delta", 1, [first])
    data = b"".join([builder.magic, b"ab", *(bytes(part) for part in builder.finish())])
    assert (data[7], data[-1]) == (2, 2)
    assert [e.bases for e in read_index(stored(data), PACK).entries] == [b"", first]


def test_without_bases_a_pack_is_what_older_versions_read() -> None:
    data = built(b"a", b"b")
    start, length, *_ = TRAILER.unpack(data[-TRAILER.size :])
    assert (data[7], data[-1]) == (1, 1)
    assert {len(e) for e in msgspec.msgpack.decode(data[start : start + length])["entries"]} == {5}


def test_bases_that_may_be() -> None:
    chain = [entry(1), entry(2, 1), entry(3, 2), entry(4, 3, 1), entry(5, 1)]
    assert len(read_index(based(chain), PACK).entries) == 5


@pytest.mark.parametrize(
    "entries",
    [
        [entry(1, 1)],
        [entry(1, 2), entry(2)],
        [entry(1, 2), entry(2, 1)],
        [entry(1), entry(2, 9)],
        [entry(1), entry(2, 1), entry(3, 2), entry(4, 3), entry(5, 4)],
        [entry(1), entry(2, 1, 1, 1)],
        [entry(1), entry(1, 1)],
        [entry(1), [*entry(2, 1)[:5], bytes([1]) * 31]],
        [[bytes([1]) * 32, 9, 0, 0, "raw", b""], entry(2, 1)],
    ],
    ids=["itself", "later", "circle", "elsewhere", "too deep", "too many", "twice", "cut short", "behind"],
)
def test_bases_that_cannot_be_are_damage(entries: list[list[Any]]) -> None:
    with pytest.raises(DamagedError, match="bases"):
        read_index(based(entries), PACK)


ENTRIES: dict[str, list[Any]] = {
    "before the data": [b"x" * 32, 7, 1, 1, "raw"],
    "past the end": [b"x" * 32, 8, 1 << 40, 1 << 40, "raw"],
    "negative size": [b"x" * 32, 8, -1, 1, "raw"],
    "negative offset": [b"x" * 32, -8, 1, 1, "raw"],
    "too short": [b"x" * 32, 8],
    "too long": [b"x" * 32, 8, 1, 1, "raw", 0],
    "not bytes": ["x", 8, 1, 1, "raw"],
}


@pytest.mark.parametrize("name", ENTRIES)
def test_an_entry_that_makes_no_sense_is_damage(name: str) -> None:
    index = msgspec.msgpack.encode({"pack": PACK, "entries": [ENTRIES[name]]})
    with pytest.raises(DamagedError, match=PACK):
        read_index(stored(sealed(index)), PACK)


@pytest.mark.parametrize(("start", "length"), [(1 << 63, 8), (8, 1 << 63), (0, 0), (5000, 0), (8, 1 << 29)])
def test_a_trailer_that_lies_is_damage(start: int, length: int) -> None:
    with pytest.raises(DamagedError):
        read_index(
            stored(sealed(msgspec.msgpack.encode(PackIndex(PACK, [])), start=start, length=length)), PACK
        )


scalars = (
    st.none()
    | st.booleans()
    | st.integers(-(2**63), 2**64 - 1)
    | st.floats()
    | st.text()
    | st.binary(max_size=40)
)
anything = st.recursive(
    scalars, lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner), max_leaves=10
)
rows = st.tuples(
    st.binary(min_size=32, max_size=32),
    st.integers(-9, 60),
    st.integers(-9, 60),
    st.integers(-9, 60),
    st.sampled_from(["raw", "x"]),
)


@given(
    st.fixed_dictionaries(
        {"pack": st.just(PACK) | st.text(), "entries": st.lists(rows | anything, max_size=4) | anything}
    )
    | anything
    | st.binary()
)
def test_no_index_at_all_raises_anything_else(content: Any) -> None:
    index = content if isinstance(content, bytes) else msgspec.msgpack.encode(content)
    data = sealed(index)
    try:
        entries = read_index(stored(data), PACK).entries
    except DamagedError:
        return
    assert all(e.offset >= 8 and e.offset + e.stored_bytes <= len(data) for e in entries)
    assert all(isinstance(e, PackEntry) for e in entries)


@given(st.binary(max_size=300))
def test_random_bytes_are_damage(data: bytes) -> None:
    for body in (data, data + bytes(-len(data) % BLOCK_BYTES), bytes(BLOCK_BYTES - 8) + TRAILER_MAGIC):
        with pytest.raises(DamagedError):
            read_index(stored(body), PACK)
