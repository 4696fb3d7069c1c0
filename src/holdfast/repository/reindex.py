"""Chunks of a pack whose index is unreadable, found again by the digests that manifests name."""

from __future__ import annotations

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
from holdfast.repository.pack import MAGIC, RAW, PackBuilder
from holdfast.storage.base import Storage

if TYPE_CHECKING:
    from holdfast.storage.base import Buffer


class Found(msgspec.Struct, frozen=True):
    """A chunk in a pack's bytes, as it is stored there."""

    digest: bytes
    start: int
    size: int
    raw_bytes: int
    codec: str = RAW


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
    """Find known chunks in the bytes of a pack, where they lie one behind the other.

    A stretch that holds none (damaged, or of a deleted checkpoint) is stepped over where it is
    as long as some chunk, or as it says itself.
    """
    sizes = sorted(set(known.values()))
    found: list[Found] = []
    at = len(MAGIC)
    while at < len(data):
        steps = [0, *_claimed_size(data, at), *sizes]
        here = next((f for s in steps if (f := _chunk_at(data, at + s, sizes, known)) is not None), None)
        if here is None:
            return found
        found.append(here)
        at = here.start + here.size
    return found


def _claimed_size(data: memoryview, at: int) -> list[int]:
    sizes = declared(data[at:])
    return [sizes[1]] if sizes is not None else []


def _chunk_at(data: memoryview, at: int, sizes: list[int], known: Mapping[bytes, int]) -> Found | None:
    return _encoded_at(data, at, sizes, known) or _raw_at(data, at, sizes, known)


def _raw_at(data: memoryview, at: int, sizes: list[int], known: Mapping[bytes, int]) -> Found | None:
    """Hash forward once, comparing at each size that a chunk may have."""
    hasher, done = blake3.blake3(), 0
    for size in sizes:
        if at + size > len(data):
            return None
        hasher.update(data[at + done : at + size])
        done = size
        digest = hasher.digest()
        if known.get(digest) == size:
            return Found(digest, at, size, size)
    return None


def _encoded_at(data: memoryview, at: int, sizes: list[int], known: Mapping[bytes, int]) -> Found | None:
    """Decode what claims to be the encoding of a chunk of some known size."""
    import numpy as np

    raw_bytes, size = declared(data[at:]) or (0, 0)
    if raw_bytes not in sizes or at + size > len(data):
        return None
    stored = np.frombuffer(data[at : at + size], np.uint8)
    for codec in CODECS.values():
        raw = np.empty(raw_bytes, np.uint8)
        with suppress(DamagedError):
            codec.decode(stored, raw)
            digest = blake3.blake3(raw.data).digest()
            if known.get(digest) == raw_bytes:
                return Found(digest, at, size, raw_bytes, codec.name)
    return None


def write_pack(storage: Storage, data: memoryview, chunks: Collection[Found]) -> str:
    """Write chunks found into a new pack; return its id."""
    builder = PackBuilder(layout.new_pack_id())
    storage.put(layout.pack(builder.pack_id), _parts(builder, data, chunks))
    return builder.pack_id


def _parts(builder: PackBuilder, data: memoryview, chunks: Collection[Found]) -> Iterator[Buffer]:
    yield MAGIC
    for chunk in chunks:
        builder.add(chunk.digest, chunk.raw_bytes, chunk.codec, chunk.size)
        yield data[chunk.start : chunk.start + chunk.size]
    yield from builder.finish()
