"""Packs that are seldom read: what the hardest setting would save of them, as a few of their chunks tell.

A sample costs what it measures, so nothing is remembered: of a pack that was rewritten so it finds no gain.
"""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Mapping, Sequence
from contextlib import suppress
from itertools import accumulate, islice
from typing import TYPE_CHECKING

from holdfast.codecs import registry
from holdfast.codecs.base import Base
from holdfast.domain.manifest import split_digests
from holdfast.errors import DamagedError, NotFoundError
from holdfast.repository.chunks import ChunkReader
from holdfast.repository.live import Live
from holdfast.repository.pack import PackEntry
from holdfast.repository.repository import Repository
from holdfast.repository.verify import UnrecordedIndex

if TYPE_CHECKING:
    import numpy as np
    import numpy.typing as npt

    Bytes = npt.NDArray[np.uint8]

WARM = 5
"""Of each run the newest recovery points, which are read most, and whose families still grow."""
SAMPLES = 16


def gains(repository: Repository, live: Live, packs: Mapping[str, Sequence[bytes]]) -> dict[str, float]:
    """Shares of their stored bytes that cold packs would lose; writes nothing.

    Parameters
    ----------
    packs : mapping
        Pack → digests of its chunks that are needed.
    """
    with repository.holding():
        warm = _warm(repository)
        cold = {pack: digests for pack, digests in packs.items() if warm.isdisjoint(digests)}
        return {pack: _gain(repository, live, pack, digests) for pack, digests in cold.items()}


def _warm(repository: Repository) -> set[bytes]:
    """Chunks that the newest recovery points need."""
    warm: set[bytes] = set()
    for run in repository.runs():
        for checkpoint in islice(run.recovery_points(), WARM):
            with suppress(DamagedError, NotFoundError):  # then its packs are left alone, or nobody's
                warm |= run.needed_chunks(checkpoint)
    return warm


def _gain(repository: Repository, live: Live, pack: str, digests: Sequence[bytes]) -> float:
    inside = {entry.digest: entry for entry in repository.index.entries(pack)}
    asked = _spread([inside[digest] for digest in digests])
    raw = _read(repository, pack, asked)
    known = [entry for entry in asked if raw.keys() >= {entry.digest, *split_digests(entry.bases)}]
    before = sum(entry.stored_bytes for entry in known)
    after = sum(min(_hard_bytes(raw, entry, live), entry.stored_bytes) for entry in known)
    return 1 - after / before if before else 0.0


def _spread(entries: Sequence[PackEntry]) -> list[PackEntry]:
    """A few of them, evenly spread over their bytes: large tensors count by what they take."""
    ends = list(accumulate(entry.stored_bytes for entry in entries))
    step = ends[-1] / SAMPLES
    return [entries[n] for n in sorted({bisect_left(ends, (k + 0.5) * step) for k in range(SAMPLES)})]


def _read(repository: Repository, pack: str, asked: Sequence[PackEntry]) -> dict[bytes, Bytes]:
    raw: dict[bytes, Bytes] = {}

    def sink(digest: bytes, data: Bytes) -> None:
        raw[digest] = data.copy()

    wanted = {digest for entry in asked for digest in (entry.digest, *split_digests(entry.bases))}
    ChunkReader(repository.storage, UnrecordedIndex(repository.storage)).read(wanted, [pack], sink)
    return raw


def _hard_bytes(raw: Mapping[bytes, Bytes], entry: PackEntry, live: Live) -> int:
    bases = [Base(digest, raw[digest]) for digest in split_digests(entry.bases)]
    encoded = registry.encode(raw[entry.digest], live.needs[entry.digest].dtype, bases, hard=True)
    return len(encoded.data) if encoded is not None else entry.raw_bytes
