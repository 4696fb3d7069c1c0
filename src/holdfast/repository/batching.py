"""Packs to be rewritten together: those whose chunks build on one another, as far as there is room."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator, Mapping

Links = Mapping[str, Mapping[str, int]]
"""Pack → packs that its chunks could build on, or that could build on its own, with the bytes that could."""


def make_links(
    homes: Mapping[bytes, str], near: Mapping[bytes, tuple[bytes, ...]], sizes: Mapping[bytes, int]
) -> Links:
    """Link packs by the chunks in them.

    Parameters
    ----------
    homes : mapping
        Digest → a pack that holds it.
    near : mapping
        Digest → what it could build on.
    sizes : mapping
        Digest → bytes.
    """
    links: dict[str, Counter[str]] = defaultdict(Counter)
    for digest, pack in homes.items():
        for other in {homes[d] for d in near.get(digest, ()) if d in homes} - {pack}:
            links[pack][other] += sizes[digest]
            links[other][pack] += sizes[digest]
    return links


def batched(sizes: Mapping[str, int], links: Links, most_bytes: int) -> list[list[str]]:
    """Divide packs into batches of at most so many bytes, or of one pack; few of them.

    Parameters
    ----------
    sizes : mapping
        Pack → bytes, in the order in which they are taken where nothing else decides.
    """
    batches: list[list[str]] = []
    for strand in _strands(sizes, links, most_bytes):
        room_bytes = most_bytes - _total(strand, sizes)
        batch = next((b for b in batches if _total(b, sizes) <= room_bytes), None)
        if batch is None:
            batches.append(strand)
        else:
            batch += strand
    return batches


def _strands(sizes: Mapping[str, int], links: Links, most_bytes: int) -> Iterator[list[str]]:
    """Linked packs that fit into one batch, those with the most in common first."""
    left = dict(sizes)
    while left:
        strand = [next(iter(left))]
        del left[strand[0]]
        while (best := _best(strand, left, links, most_bytes - _total(strand, sizes))) is not None:
            strand.append(best)
            del left[best]
        yield strand


def _best(strand: list[str], left: Mapping[str, int], links: Links, room_bytes: int) -> str | None:
    weights: Counter[str] = Counter()
    for pack in strand:
        near = links.get(pack, {})
        weights.update({p: near[p] for p in near if p in left and left[p] <= room_bytes})
    return max(weights, key=lambda p: (weights[p], p), default=None)


def _total(packs: Iterable[str], sizes: Mapping[str, int]) -> int:
    return sum(sizes[pack] for pack in packs)
