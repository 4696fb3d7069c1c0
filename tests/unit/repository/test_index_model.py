"""The index says the same as a list of all packs would, whatever it has learned and unlearned."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from holdfast.repository.index import ChunkIndex
from holdfast.repository.pack import PackEntry
from holdfast.storage.memory import MemoryStorage

PACKS = {name * 32: number for number, name in enumerate("abcd")}
DIGESTS = [bytes([n]) * 32 for n in range(3)]
acts = st.lists(
    st.tuples(st.sampled_from(sorted(PACKS)), st.none() | st.sets(st.sampled_from(DIGESTS), max_size=4)),
    min_size=4,
    max_size=20,
)


def entries(pack: str, digests: set[bytes]) -> list[PackEntry]:
    return [PackEntry(digest, 8 + n, PACKS[pack], 1) for n, digest in enumerate(sorted(digests))]


@given(
    acts,
    st.sets(st.sampled_from(sorted(PACKS))),
    st.sets(st.tuples(st.sampled_from(sorted(PACKS)), st.sampled_from(DIGESTS)), max_size=3),
)
def test_learning_and_unlearning(
    done: list[tuple[str, set[bytes] | None]], condemned: set[str], bad: set[tuple[str, bytes]]
) -> None:
    index, model = ChunkIndex(MemoryStorage()), {}
    for pack, digests in done:
        if digests is None:
            index.forget(pack)
            model.pop(pack, None)
        else:
            index.add(pack, entries(pack, digests))
            model[pack] = digests
    for pack, digest in bad:
        index.record_damage(pack, [digest], "a test")
    for digest in DIGESTS:
        holding = sorted(pack for pack, digests in model.items() if digest in digests)
        good = [pack for pack in holding if (pack, digest) not in bad]
        assert [(c.pack, c.entry) for c in index.copies(digest)] == [
            (pack, next(e for e in entries(pack, model[pack]) if e.digest == digest)) for pack in good
        ]
        assert [c.pack for c in index.last_copies(digest)] == (good or holding)
        first = [p for p in good or holding if p not in condemned] or good or holding
        assert index.holders([digest], condemned) == set(first[:1])
    assert index.holders(DIGESTS, condemned) == {
        pack for digest in DIGESTS for pack in index.holders([digest], condemned)
    }
    assert set(index.packs()) == set(model)
