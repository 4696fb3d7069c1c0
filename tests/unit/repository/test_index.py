"""What the index says of copies that are encoded by others."""

from __future__ import annotations

import pytest

from holdfast.repository.index import ChunkIndex, Copy
from holdfast.repository.pack import PackEntry
from holdfast.storage.memory import MemoryStorage

PACK, OTHER = "a" * 32, "b" * 32
BASE, DELTA, DEEPER, ALONE = (bytes([n]) * 32 for n in range(4))
ENTRIES = [
    PackEntry(BASE, 8, 9, 9),
    PackEntry(DELTA, 17, 9, 9, "delta", BASE),
    PackEntry(DEEPER, 26, 9, 9, "delta", DELTA),
    PackEntry(ALONE, 35, 9, 9),
]


def bad_in(index: ChunkIndex) -> set[bytes]:
    return {entry.digest for entry in ENTRIES if not index.copies(entry.digest)}


@pytest.mark.parametrize("when", ["recorded", "before it is known", "after it is known"])
@pytest.mark.parametrize(
    ("bad", "spoiled"),
    [(BASE, {BASE, DELTA, DEEPER}), (DELTA, {DELTA, DEEPER}), (DEEPER, {DEEPER}), (ALONE, {ALONE})],
)
def test_what_builds_on_a_bad_copy_is_bad(when: str, bad: bytes, spoiled: set[bytes]) -> None:
    storage = MemoryStorage()
    index = ChunkIndex(storage)
    if when == "recorded":
        index.add(PACK, ENTRIES)
        assert bad_in(index) == set()
        index.record_damage(PACK, [bad], "test")
    else:
        ChunkIndex(storage).record_damage(PACK, [bad], "test")
        assert index.copies(ALONE) == []  # the records have been read
        index = index if when == "before it is known" else ChunkIndex(storage)
        index.add(PACK, ENTRIES)
    assert bad_in(index) == spoiled
    assert {c.entry.digest for c in index.copies_in(PACK)} == {e.digest for e in ENTRIES} - spoiled
    assert all(index.proves_damage([digest], []) for digest in spoiled)
    index.add(OTHER, ENTRIES)
    assert {c.pack for digest in spoiled for c in index.copies(digest)} == {OTHER}


def test_bases_are_of_the_same_pack() -> None:
    index = ChunkIndex(MemoryStorage())
    index.add(PACK, ENTRIES)
    index.add(OTHER, ENTRIES)
    assert index.bases(Copy(OTHER, ENTRIES[1])) == [Copy(OTHER, ENTRIES[0])]
    assert index.bases(Copy(OTHER, ENTRIES[0])) == []
    index.forget(OTHER)
    assert index.bases(Copy(OTHER, ENTRIES[1])) == []
