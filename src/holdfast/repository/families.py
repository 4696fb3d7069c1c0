"""Which chunks are encoded by which others: the newest stands alone, older ones are deltas on newer ones.

Decided on digests alone; whether a delta pays is seen when it is made. What is restored most, the
newest checkpoint, is read as fast as without deltas, and what retention removes first, the oldest,
is what nothing builds on (docs/design/012-delta-and-derived-chunks.md).
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import NamedTuple

DEPTH = 2
"""Deltas of deltas, no more: a chunk is read with at most so many others."""
MEMBERS = 4
"""Beyond that the next chunk stands alone: what is far from the newest gains little by it."""


class Member(NamedTuple):
    """A chunk, the chunk that it may be encoded by, and how many that one needs itself."""

    digest: bytes
    bases: tuple[bytes, ...] = ()
    depth: int = 0


Family = list[Member]
"""Chunks that must lie in one pack, each after what it may be encoded by."""


def families(newest_first: Iterable[bytes], newer: Mapping[bytes, bytes]) -> list[Family]:
    """Divide these chunks, each into exactly one family.

    Parameters
    ----------
    newest_first : iterable of bytes
        Digests; a chunk may build only on one that comes before it.
    newer : mapping
        Digest → that of the same chunk in the next checkpoint.
    """
    found: list[Family] = []
    homes: dict[bytes, Family] = {}
    members: dict[bytes, Member] = {}
    for digest in newest_first:
        base = members.get(newer.get(digest, b""))
        if base is not None and base.depth == DEPTH:
            base = members[base.bases[0]]
        if base is None or len(homes[base.digest]) >= MEMBERS:
            members[digest] = Member(digest)
            homes[digest] = [members[digest]]
            found.append(homes[digest])
        else:
            members[digest] = Member(digest, (base.digest,), base.depth + 1)
            homes[digest] = homes[base.digest]
            homes[digest].append(members[digest])
    return found
