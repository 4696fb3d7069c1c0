"""Packs to be rewritten together: those whose chunks build on one another, as far as there is room."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator, Mapping
from typing import NamedTuple

from holdfast.repository.families import MEMBERS

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


class Pack(NamedTuple):
    """A pack to be rewritten: its bytes, and the number of the newest checkpoint that needs it."""

    name: str
    raw_bytes: int
    owner: int


def batched(packs: Iterable[Pack], links: Links, most_bytes: int) -> list[list[str]]:
    """Divide packs into few batches, of at most so many bytes or of one pack.

    Parameters
    ----------
    packs : iterable of Pack
        In the order in which they are taken where nothing else decides: the newest first.
    """
    batches: list[list[Pack]] = []
    for strand in _strands(packs, links, most_bytes):
        room_bytes = most_bytes - _total(strand)
        batch = next((b for b in batches if _total(b) <= room_bytes), None)
        if batch is None:
            batches.append(strand)
        else:
            batch += strand
    return [[pack.name for pack in batch] for batch in batches]


def _strands(packs: Iterable[Pack], links: Links, most_bytes: int) -> Iterator[list[Pack]]:
    """Linked packs that fit into one batch, those with the most in common first."""
    left = {pack.name: pack for pack in packs}
    while left:
        strand = [left.pop(next(iter(left)))]
        while (best := _best(strand, left, links, most_bytes - _total(strand))) is not None:
            strand.append(left.pop(best))
        yield strand


def _best(strand: list[Pack], left: Mapping[str, Pack], links: Links, room_bytes: int) -> str | None:
    """The pack to go with these: not of more checkpoints than a family has members."""
    owners = {pack.owner for pack in strand}
    weights: Counter[str] = Counter()
    for pack in strand:
        for name, weight in links.get(pack.name, {}).items():
            if name in left and left[name].raw_bytes <= room_bytes:
                weights[name] += weight if len(owners | {left[name].owner}) <= MEMBERS else 0
    return max((n for n in weights if weights[n]), key=lambda n: (weights[n], n), default=None)


def _total(packs: Iterable[Pack]) -> int:
    return sum(pack.raw_bytes for pack in packs)
