"""One checkpoint of several ranks: a manifest that holds each tensor once, and whose tensor is whose.

What a rank has just as rank 0 has it (a replicated model) bears rank 0's name; the rest is ``rank 1/...``.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from typing import Any

import msgspec

from holdfast.domain.manifest import Details, Manifest, RankDetails, TensorEntry
from holdfast.errors import UnsupportedError

_OWN = re.compile(r"rank (\d+)/")


def joined(parts: Sequence[Manifest]) -> Manifest:
    """One manifest of what every rank, in order, has made of its own state; the first one's summary.

    Raises
    ------
    UnsupportedError
        A tensor's name would be taken for another rank's.
    """
    first = parts[0]
    tensors = dict(first.tensors)
    for rank, part in enumerate(parts[1:], 1):
        tensors |= {f"rank {rank}/{name}": part.tensors[name] for name in _own(part, first)}
    _refuse_ambiguous(name for part in parts for name in part.tensors)
    size_bytes = sum(entry.spec.size_bytes for entry in tensors.values())
    summary = msgspec.structs.replace(first.summary, size_bytes=size_bytes, tensors=len(tensors))
    ranks = tuple(_beside(part.details, first.details) for part in parts[1:])
    return Manifest(summary, first.details, first.chunk_bytes, tensors, ranks)


def of_rank(manifest: Manifest, rank: int) -> Manifest:
    """A manifest as if this rank had made it alone."""
    if not manifest.ranks:
        return manifest
    tensors: dict[str, TensorEntry] = {}
    for name, entry in manifest.tensors.items():
        match = _OWN.match(name)
        if match is None:
            tensors.setdefault(name, entry)
        elif int(match[1]) == rank:
            tensors[name[match.end() :]] = entry
    details = _details(manifest, rank)
    return msgspec.structs.replace(manifest, details=details, tensors=tensors, ranks=())


def world_size(manifest: Manifest) -> int:
    """How many ranks it is of."""
    return 1 + len(manifest.ranks)


def _own(part: Manifest, first: Manifest) -> list[str]:
    return [name for name, entry in part.tensors.items() if first.tensors.get(name) != entry]


def _refuse_ambiguous(names: Iterable[str]) -> None:
    taken = next((name for name in names if _OWN.match(name)), None)
    if taken is not None:
        raise UnsupportedError(
            f"The state's entry {taken!r} cannot be told from another rank's.",
            do="Give it a name that does not begin with 'rank' and a number.",
        )


def _beside(details: Details, first: Details) -> RankDetails:
    """What differs, by its bits: ``-0.0`` is not ``0.0``, nor True 1."""

    def unless_same(ours: Any, theirs: Any) -> Any:
        same = msgspec.msgpack.encode(ours) == msgspec.msgpack.encode(theirs)
        return None if same else ours

    return RankDetails(
        unless_same(details.tree, first.tree),
        unless_same(details.training, first.training),
        unless_same(details.given, first.given),
    )


def _details(manifest: Manifest, rank: int) -> Details:
    if rank == 0:
        return manifest.details
    own = manifest.ranks[rank - 1]
    changes = {field: node for field, node in msgspec.structs.asdict(own).items() if node is not None}
    return msgspec.structs.replace(manifest.details, **changes)
