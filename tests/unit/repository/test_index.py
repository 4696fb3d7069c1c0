"""Which packs hold one copy of each chunk: the choice that decides what may be deleted."""

from __future__ import annotations

import random
from itertools import pairwise

import pytest

from holdfast.repository.index import ChunkIndex
from holdfast.repository.pack import PackEntry
from holdfast.storage.memory import MemoryStorage

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
