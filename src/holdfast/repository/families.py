"""Which chunks may be encoded by which others: older ones by newer ones, narrow ones by wide ones.

Decided on digests alone; whether it pays is seen when it is done. What is restored most, the
newest checkpoint, is read as fast as without deltas, and what retention removes first, the oldest,
is what nothing builds on (docs/design/012-delta-and-derived-chunks.md).
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from typing import NamedTuple, Protocol, TypeVar

MEMBERS = 5
"""Beyond that the next chunk stands alone: what is far from the newest gains little by it."""
HUB = 3
"""The member, counted from the newest, on which its neighbours build: they are nearer to it."""


class Member(NamedTuple):
    """A chunk, the chunks that it may be encoded by, and how many of these build on one another."""

    digest: bytes
    bases: tuple[bytes, ...] = ()
    depth: int = 0


class BuiltOn(Protocol):
    """What has bases."""

    @property
    def digest(self) -> bytes: ...

    @property
    def bases(self) -> tuple[bytes, ...]: ...


T = TypeVar("T", bound=BuiltOn)
Family = list[Member]
"""Chunks that must lie in one pack, each after what it may be encoded by."""


def families(
    newest_first: Iterable[bytes],
    newer: Mapping[bytes, bytes],
    wider: Mapping[bytes, tuple[bytes, ...]],
) -> list[Family]:
    """Divide these chunks, each into exactly one family.

    Parameters
    ----------
    newest_first : iterable of bytes
        Digests; a chunk may be a delta only on one that comes before it.
    newer : mapping
        Digest → that of the same chunk in the next checkpoint.
    wider : mapping
        Digest → those of the chunks whose rounding it is.
    """
    digests = list(newest_first)
    wide = {d for d in digests if d not in wider}
    narrow = {d: wider[d] for d in digests if wider.get(d) and wide.issuperset(wider[d])}
    members = _chained((d for d in digests if d not in narrow), newer)
    for digest in narrow:
        depth = 1 + max(members[base].depth for base in wider[digest])
        members[digest] = Member(digest, wider[digest], depth)
    return divided(members.values())


def _chained(newest_first: Iterable[bytes], newer: Mapping[bytes, bytes]) -> dict[bytes, Member]:
    lines: dict[bytes, list[bytes]] = {}
    for digest in newest_first:
        line = lines.get(newer.get(digest, b""), [])
        if len(line) == MEMBERS:
            line = []
        line.append(digest)
        lines[digest] = line
    by_root = {line[0]: line for line in lines.values()}
    return {member.digest: member for line in by_root.values() for member in _built(line)}


def _built(line: list[bytes]) -> Iterator[Member]:
    """The newest alone, deltas on it, then those on the hub, where there is one."""
    newest, *older = line
    hub, beside = older[HUB - 1 : HUB], older[HUB - 2 : HUB - 1] + older[HUB:]
    direct = older[: HUB - 2] + hub if hub else older
    yield Member(newest)
    yield from (Member(digest, (newest,), 1) for digest in direct)
    if hub:
        yield from (Member(digest, (hub[0],), 2) for digest in beside)


def divided(chunks: Iterable[T]) -> list[list[T]]:
    """Divide these, each of which comes after its bases, as far as none builds on another."""
    homes: dict[bytes, list[T]] = {}
    for one in chunks:
        home: list[T] = []
        for base in one.bases:
            if homes[base] is not home:
                home += homes[base]
                homes.update((other.digest, home) for other in homes[base])
        home.append(one)
        homes[one.digest] = home
    return list({id(home): home for home in homes.values()}.values())
