"""Chunks of a pack whose index is unreadable, found again by the digests that manifests name."""

from __future__ import annotations

import heapq
from collections.abc import Collection, Iterable, Iterator, Mapping
from contextlib import suppress
from typing import TYPE_CHECKING

import blake3
import msgspec

from holdfast.codecs.base import declared
from holdfast.codecs.registry import CODECS
from holdfast.domain.manifest import Manifest, chunk_sizes, split_digests
from holdfast.domain.tensors import TensorSpec
from holdfast.errors import DamagedError
from holdfast.repository import layout
from holdfast.repository.pack import MAGIC, MAX_DEPTH, RAW, PackBuilder
from holdfast.storage.base import Storage

if TYPE_CHECKING:
    import numpy as np
    import numpy.typing as npt

    from holdfast.storage.base import Buffer

    Bytes = npt.NDArray[np.uint8]


MOST_TRIES = 1000
"""Places looked at for the next chunk before the search is given up."""
_PIECE_BYTES = 64 * 1024


class Found(msgspec.Struct, frozen=True):
    """A chunk in a pack's bytes, as it is stored there."""

    digest: bytes
    start: int
    size: int
    raw_bytes: int
    codec: str = RAW
    bases: tuple[bytes, ...] = ()


def chunk_sizes_of(manifests: Iterable[Manifest]) -> dict[bytes, int]:
    """Digest → size of every chunk that these manifests name."""
    sizes: dict[bytes, int] = {}
    for manifest in manifests:
        for entry in manifest.tensors.values():
            for shard in entry.shards:
                spec = TensorSpec(entry.dtype, shard.sizes)
                pieces = chunk_sizes(spec.size_bytes, manifest.chunk_bytes)
                sizes.update(zip(split_digests(shard.chunks), pieces, strict=True))
    return sizes


def find_chunks(data: memoryview, known: Mapping[bytes, int]) -> list[Found]:
    """Find known chunks in the bytes of a pack, where they lie one behind the other; and their bases.

    What is none of them (damaged, or of a deleted checkpoint) is stepped over where it is as long as
    some chunk, or as it says itself.
    """
    search = _Search(data, sorted(set(known.values())), set(known))
    found = search.run()
    for _ in range(MAX_DEPTH):  # a base may be of a deleted checkpoint, known only by what needs it
        if search.named <= search.known:
            break
        search = _Search(data, search.sizes, search.known | search.named)
        found = search.run()
    return found


def with_bases(wanted: Iterable[Found], found: Iterable[Found]) -> list[Found]:
    """Those wanted, each once, and all that they need, as they lie in the pack."""
    needed = {f.digest for f in wanted}
    kept: dict[bytes, Found] = {}
    for one in sorted(found, key=lambda f: f.start, reverse=True):
        if one.digest in needed:
            needed.update(one.bases)
            kept.pop(one.digest, None)  # the first of several, which lies before all that need it
            kept[one.digest] = one
    return sorted(kept.values(), key=lambda f: f.start)


class _Search:
    """One walk over a pack's bytes.

    Attributes
    ----------
    known : set[bytes]
        Digests of chunks to be found.
    named : set[bytes]
        Digests of bases that encodings name, or what looks like one.
    """

    def __init__(self, data: memoryview, sizes: list[int], known: set[bytes]) -> None:
        self._data = data
        self.sizes = sizes
        self.known = known
        self.named: set[bytes] = set()
        self._found: dict[bytes, Found] = {}
        self._depths: dict[bytes, int] = {}

    def run(self) -> list[Found]:
        found: list[Found] = []
        at = len(MAGIC)
        while (here := self._next(at)) is not None:
            found.append(here)
            self._found.setdefault(here.digest, here)
            self._depths.setdefault(here.digest, self._depth(here))
            at = here.start + here.size
        return found

    def _next(self, at: int) -> Found | None:
        """The next chunk from here on, stepping over what is none by the fewest guesses of its size."""
        frontier, tried = [(0, at)], set[int]()
        while frontier and len(tried) < MOST_TRIES:
            guesses, at = heapq.heappop(frontier)
            if at in tried or at >= len(self._data):
                continue
            tried.add(at)
            if (found := self._chunk_at(at)) is not None:
                return found
            raw_bytes, claimed_bytes = declared(self._data[at:]) or (0, 0)
            heapq.heappush(frontier, (guesses + (raw_bytes not in self.sizes), at + claimed_bytes))
            for size in self.sizes:
                heapq.heappush(frontier, (guesses + 1, at + size))
        return None

    def _chunk_at(self, at: int) -> Found | None:
        return self._encoded_at(at) or self._raw_at(at)

    def _raw_at(self, at: int) -> Found | None:
        """Hash forward once, comparing at each size that a chunk may have."""
        hasher, done = blake3.blake3(), 0
        for size in self.sizes:
            if at + size > len(self._data):
                return None
            hasher.update(self._data[at + done : at + size])
            done = size
            digest = hasher.digest()
            if digest in self.known:
                return Found(digest, at, size, size)
        return None

    def _encoded_at(self, at: int) -> Found | None:
        """Decode what claims to be the encoding of a chunk of some known size."""
        raw_bytes, size = declared(self._data[at:]) or (0, 0)
        if raw_bytes not in self.sizes or at + size > len(self._data):
            return None
        for codec in CODECS.values():
            bases = tuple(codec.named(self._data[at : at + size]))
            one = Found(b"", at, size, raw_bytes, codec.name, bases)
            raw = self._decoded(one)
            digest = blake3.blake3(raw.data).digest() if raw is not None else b""
            if digest in self.known:
                return msgspec.structs.replace(one, digest=digest)
        return None

    def _depth(self, one: Found) -> int:
        return max((self._depths.get(d, MAX_DEPTH) + 1 for d in one.bases), default=0)

    def _decoded(self, one: Found) -> Bytes | None:
        """The bytes of a chunk, as far as what it needs was found before it."""
        import numpy as np

        stored = np.frombuffer(self._data[one.start : one.start + one.size], np.uint8)
        if one.codec == RAW:
            return stored
        self.named.update(one.bases)
        if self._depth(one) > MAX_DEPTH:
            return None
        below = [self._decoded(self._found[d]) for d in one.bases]
        raw = np.empty(one.raw_bytes, np.uint8)
        with suppress(DamagedError):
            CODECS[one.codec].decode(stored, raw, [b for b in below if b is not None])
            return raw
        return None


def readable_bytes(storage: Storage, key: str) -> memoryview:
    """What can be read of a pack; zeros where a sealed one does not unseal."""
    found = storage.stat(key)
    data = bytearray(found.size_bytes if found is not None else 0)
    for at in range(0, len(data), _PIECE_BYTES):
        with suppress(DamagedError):
            piece = storage.get(key, at, min(at + _PIECE_BYTES, len(data)))
            data[at : at + len(piece)] = piece
    return memoryview(data)


def write_pack(storage: Storage, data: memoryview, chunks: Collection[Found]) -> str:
    """Write chunks found into a new pack; return its id."""
    builder = PackBuilder(layout.new_pack_id(), based=any(chunk.bases for chunk in chunks))
    storage.put(layout.pack(builder.pack_id), _parts(builder, data, chunks))
    return builder.pack_id


def _parts(builder: PackBuilder, data: memoryview, chunks: Collection[Found]) -> Iterator[Buffer]:
    yield builder.magic
    for chunk in chunks:
        builder.add(chunk.digest, chunk.raw_bytes, chunk.codec, chunk.size, chunk.bases)
        yield data[chunk.start : chunk.start + chunk.size]
    yield from builder.finish()
