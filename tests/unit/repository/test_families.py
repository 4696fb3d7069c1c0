"""What builds on what, and what is rewritten with what: decided on names alone."""

from __future__ import annotations

from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from holdfast.repository.assembling import PACK_BYTES, SEGMENT_BYTES, SMALL_BYTES, Shelves, Stored, in_order
from holdfast.repository.batching import Pack, batched, make_links
from holdfast.repository.families import MEMBERS, divided, families
from holdfast.repository.pack import MAX_DEPTH

digests = st.lists(st.integers(0, 30).map(lambda n: b"%d" % n), unique=True)


def name(number: int) -> bytes:
    return b"%d" % number


@given(digests, st.dictionaries(st.integers(0, 30).map(name), st.integers(0, 30).map(name)))
def test_families_hold_each_once_short_and_without_circles(
    newest_first: list[bytes], newer: dict[bytes, bytes]
) -> None:
    found = families(newest_first, newer, {})
    assert sorted(m.digest for family in found for m in family) == sorted(newest_first)
    for family in found:
        assert 1 <= len(family) <= MEMBERS
        assert family[0].bases == ()
        met: dict[bytes, int] = {}
        for member in family:
            assert all(base in met for base in member.bases)
            assert member.depth == max((met[base] + 1 for base in member.bases), default=0) <= 2
            met[member.digest] = member.depth


def test_a_long_chain_has_a_new_start_every_few() -> None:
    newer = {name(n): name(n + 1) for n in range(12)}
    found = families([name(n) for n in reversed(range(12))], newer, {})
    assert [len(family) for family in found] == [MEMBERS, MEMBERS, 12 - 2 * MEMBERS]


@pytest.mark.parametrize(
    ("length", "bases"),
    [(1, {}), (2, {1: 0}), (3, {1: 0, 2: 0}), (4, {1: 0, 3: 0, 2: 3}), (5, {1: 0, 3: 0, 2: 3, 4: 3})],
)
def test_old_ones_build_on_one_that_is_near_them(length: int, bases: dict[int, int]) -> None:
    """Counted from the newest."""
    newer = {name(n): name(n - 1) for n in range(1, length)}
    (found,) = families([name(n) for n in range(length)], newer, {})
    assert {int(m.digest): int(m.bases[0]) for m in found if m.bases} == bases


@given(
    digests,
    st.dictionaries(st.integers(0, 30).map(name), st.integers(0, 30).map(name)),
    st.dictionaries(
        st.integers(0, 30).map(name), st.lists(st.integers(0, 30).map(name), max_size=2).map(tuple)
    ),
)
def test_narrow_ones_join_the_families_of_the_wide(
    newest_first: list[bytes], newer: dict[bytes, bytes], wider: dict[bytes, tuple[bytes, ...]]
) -> None:
    found = families(newest_first, newer, wider)
    assert sorted(m.digest for family in found for m in family) == sorted(newest_first)
    for family in found:
        met: dict[bytes, int] = {}
        for member in family:
            assert met.keys() >= set(member.bases)
            assert member.depth == max((met[base] + 1 for base in member.bases), default=0) <= MAX_DEPTH
            met[member.digest] = member.depth


def test_copies_of_two_halves_bring_their_families_together() -> None:
    wider = {b"n": (b"w1", b"w2"), b"n-": (b"w1-", b"w2-"), b"other": (b"gone", b"w3")}
    newer = {b"w1-": b"w1", b"w2-": b"w2", b"n-": b"n", b"w3-": b"w3"}
    chunks = [b"n", b"w1", b"w2", b"w3", b"other", b"n-", b"w1-", b"w2-", b"w3-"]
    found = {frozenset(m.digest for m in family) for family in families(chunks, newer, wider)}
    assert found == {
        frozenset({b"w1", b"w2", b"w1-", b"w2-", b"n", b"n-"}),
        frozenset({b"w3", b"w3-"}),
        frozenset({b"other"}),
    }


@given(
    st.dictionaries(st.text("abcdefgh", min_size=1, max_size=1), st.integers(1, 9)),
    st.dictionaries(
        st.tuples(st.sampled_from("abcdefgh"), st.sampled_from("abcdefgh")), st.integers(1, 9), max_size=9
    ),
    st.integers(0, 30),
)
def test_batches_hold_each_pack_once_and_have_a_limit(
    sizes: dict[str, int], pairs: dict[tuple[str, str], int], most_bytes: int
) -> None:
    links: dict[str, dict[str, int]] = {}
    for (a, b), weight in pairs.items():
        links.setdefault(a, {})[b] = weight
        links.setdefault(b, {})[a] = weight
    batches = batched([Pack(p, sizes[p], owner=1) for p in sizes], links, most_bytes)
    assert sorted(p for batch in batches for p in batch) == sorted(sizes)
    assert all(len(batch) == 1 or sum(sizes[p] for p in batch) <= most_bytes for batch in batches)


def test_packs_that_build_on_one_another_are_rewritten_together() -> None:
    homes = {b"a1": "a", b"a2": "a", b"b1": "b", b"c1": "c", b"c2": "c", b"d1": "d"}
    near = {b"a1": (b"c1", b"c2"), b"a2": (b"c2",), b"b1": (b"d1",), b"d1": (b"gone",)}
    links = make_links(homes, near, dict.fromkeys(homes, 5))
    assert links == {"a": {"c": 10}, "c": {"a": 10}, "b": {"d": 5}, "d": {"b": 5}}
    packs = [Pack(p, 10, owner=1) for p in "abcd"]
    assert batched(packs, links, 20) == [["a", "c"], ["b", "d"]]
    assert batched(packs, links, 19) == [["a"], ["b"], ["c"], ["d"]]


def test_as_many_checkpoints_as_a_family_has_members() -> None:
    names = "abcdefgh"
    links = {a: {b: 1} for a, b in pairwise(names)}
    links = {p: links.get(p, {}) | {q: 1 for q in links if p in links[q]} for p in names}
    packs = [Pack(p, 10, owner=9 - n) for n, p in enumerate(names)]
    assert batched(packs, links, 60) == [list("abcde"), list("fgh")]
    assert batched(packs, links, 80) == [list(names)]
    assert batched(packs, links, 30) == [list("abc"), list("def"), list("gh")]


def stored(number: int, *bases: int, raw_bytes: int = 10) -> Stored:
    return Stored(name(number), raw_bytes, "x", b"", tuple(map(name, bases)))


def test_what_builds_on_nothing_goes_its_own_way() -> None:
    chunks = [stored(1), stored(2), stored(3, 2), stored(4), stored(5, 3), stored(6, 1, 4)]
    assert [[int(c.digest) for c in together] for together in divided(chunks)] == [[1, 4, 6], [2, 3, 5]]


@given(st.lists(st.tuples(st.integers(0, 3), st.sampled_from([1, SMALL_BYTES, PACK_BYTES // 2, PACK_BYTES]))))
def test_shelves_fill_packs_and_lose_nothing(pieces: list[tuple[int, int]]) -> None:
    shelves = Shelves()
    packs = []
    for number, (owner, size) in enumerate(pieces):
        data = np.broadcast_to(np.uint8(0), size)
        packs += list(shelves.add([Stored(name(number), size, "x", data, (), owner)]))
    packs += list(shelves.rest())
    assert sorted(int(c.digest) for pack in packs for (c,) in pack) == list(range(len(pieces)))
    sizes = [sum(len(c.data) for (c,) in pack) for pack in packs]
    assert all(size <= PACK_BYTES + 2 * SMALL_BYTES for size in sizes)
    assert len(sizes) <= 1 or min(sizes) >= SMALL_BYTES


def test_what_builds_on_others_comes_later_and_checkpoints_stay_together() -> None:
    pack = []
    for start in (0, 10):
        made = [
            stored(start),
            stored(start + 1, start),
            stored(start + 2, start + 1),
            stored(start + 3, start + 1),
        ]
        pack.append([one._replace(owner=9 - n) for n, one in enumerate(made)])
    pack.append([stored(20)._replace(owner=9), stored(21, 20)._replace(owner=9)])
    assert [int(one.digest) for one in in_order(pack)] == [0, 10, 20, 21, 1, 11, 2, 12, 3, 13]
    late = [stored(30)._replace(owner=5), stored(31, 30)._replace(owner=9)]  # needed again, without its base
    assert [int(one.digest) for one in in_order([late])] == [30, 31]
    large = [[one._replace(raw_bytes=SEGMENT_BYTES // 6) for one in together] for together in pack]
    assert [int(one.digest) for one in in_order(large)] == [0, 1, 2, 3, 10, 20, 21, 11, 12, 13]
