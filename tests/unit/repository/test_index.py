"""What the index knows: copies that are encoded by others, and which packs hold one copy of each chunk."""

from __future__ import annotations

import random
import threading
from itertools import pairwise

import pytest

from holdfast.repository import layout
from holdfast.repository.index import ChunkIndex, Copy, read_damage
from holdfast.repository.pack import MAGIC, PackBuilder, PackEntry
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


class Store(MemoryStorage):
    """Answers once two wait for it."""

    exclusive_locks = False  # type: ignore[assignment]  # as of what is reached over a network

    def __init__(self) -> None:
        super().__init__()
        self.waiting = threading.Barrier(2, timeout=10)

    def get(self, key: str, start: int = 0, stop: int | None = None) -> bytes:
        self.waiting.wait()
        return super().get(key, start, stop)


def test_a_store_is_asked_for_several_indexes_side_by_side() -> None:
    storage = Store()
    present, absent = [f"{n:032x}" for n in range(9)], "f" * 32
    for pack_id in present:
        builder = PackBuilder(pack_id)
        builder.add(ALONE, 0)
        storage.put(layout.pack(pack_id), [MAGIC, *builder.finish()])
    index = ChunkIndex(storage)
    index.load([absent, *present, *present])
    assert sorted(copy.pack for copy in index.copies(ALONE)) == present
    assert index.unreadable.keys() == {absent}


def test_bases_are_of_the_same_pack() -> None:
    index = ChunkIndex(MemoryStorage())
    index.add(PACK, ENTRIES)
    index.add(OTHER, ENTRIES)
    assert index.bases(Copy(OTHER, ENTRIES[1])) == [Copy(OTHER, ENTRIES[0])]
    assert index.bases(Copy(OTHER, ENTRIES[0])) == []
    index.forget(OTHER)
    assert index.bases(Copy(OTHER, ENTRIES[1])) == []


DIGESTS = [bytes([n]) * 32 for n in range(40)]


def indexed(**packs: list[int]) -> ChunkIndex:
    index = ChunkIndex(MemoryStorage())
    for pack_id, numbers in packs.items():
        index.add(pack_id, [PackEntry(DIGESTS[n], 8, 1, 1) for n in numbers])
    return index


def test_each_chunk_has_a_holder() -> None:
    index = indexed(a=[0, 1], b=[2])
    assert index.holders(DIGESTS[:3]) == {"a", "b"}
    assert index.holders(DIGESTS[:1]) == {"a"}
    assert index.holders([]) == set()


def test_a_chunk_of_which_nothing_is_known_has_none() -> None:
    assert indexed(a=[0]).holders(DIGESTS[:2]) == {"a"}


def test_of_several_copies_the_smallest_name_counts_that_is_not_condemned() -> None:
    index = indexed(b=[0], a=[0], c=[0])
    assert index.holders(DIGESTS[:1]) == {"a"}
    assert index.holders(DIGESTS[:1], {"a"}) == {"b"}
    assert index.holders(DIGESTS[:1], {"a", "b", "c"}) == {"a"}


def test_the_only_copy_counts_although_it_is_condemned_or_bad() -> None:
    index = indexed(a=[0], b=[1])
    index.record_damage("a", DIGESTS[:1], "flipped")
    assert index.holders(DIGESTS[:2], {"b"}) == {"a", "b"}


def test_a_good_copy_counts_before_a_bad_one() -> None:
    index = indexed(a=[0], b=[0])
    index.record_damage("a", DIGESTS[:1], "flipped")
    assert index.holders(DIGESTS[:1]) == {"b"}


@pytest.mark.parametrize("seed", range(20))
def test_it_chooses_as_the_copies_are_ordered(seed: int) -> None:
    """Against the rule spelled out, copy by copy."""
    dice = random.Random(seed)
    names = "abcdef"
    index = indexed(**{name: dice.sample(range(40), 15) for name in names})
    for name, _ in pairwise(names):
        if bad := [d for d in DIGESTS if dice.random() < 0.2]:
            index.record_damage(name, bad, "flipped")
    condemned = {name for name in names if dice.random() < 0.4}
    expected = set()
    for digest in DIGESTS:
        if packs := [copy.pack for copy in index.last_copies(digest)]:
            expected.add(next((p for p in packs if p not in condemned), packs[0]))
    assert index.holders(DIGESTS, condemned) == expected


def test_damage_to_any_number_of_chunks_is_known_to_others() -> None:
    storage = MemoryStorage()
    many = {number.to_bytes(32, "big") for number in range(20_000)}
    ChunkIndex(storage).record_damage(PACK, many, "test")
    assert {digest for record in read_damage(storage) for digest in record.readable()} == many
