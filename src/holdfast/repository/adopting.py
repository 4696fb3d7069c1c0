"""Committing a checkpoint that exists elsewhere: only chunks that are lacking here are moved.

A manifest names chunks, not packs, so another run of the repository takes a checkpoint over by its
manifest alone, and another repository by its manifest and the chunks that it does not have. The
order of writes is that of every commit. Packs of an adoption that was cut short are named by its
hint, which was written when they were durable, so another one goes on from there.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable
from contextlib import AbstractContextManager, nullcontext
from typing import TYPE_CHECKING, NamedTuple

from holdfast.codecs import registry
from holdfast.codecs.scratch import settle_allocator
from holdfast.domain.manifest import Manifest, split_digests
from holdfast.domain.manifest_file import encode_manifest
from holdfast.domain.names import CheckpointId
from holdfast.errors import DamagedError, StorageError
from holdfast.repository import layout, records
from holdfast.repository.assembling import Stored, pack_bytes
from holdfast.repository.chunks import ChunkReader
from holdfast.repository.commit import Committed, Finder, learn, publish, put_hint
from holdfast.repository.index import ChunkIndex
from holdfast.repository.pack import RAW, PackBuilder, PackEntry
from holdfast.repository.reading import raise_damage
from holdfast.repository.retention import FULL
from holdfast.repository.run import Run
from holdfast.repository.signatures import carried
from holdfast.repository.writing import Written, discard, in_groups

if TYPE_CHECKING:
    import numpy as np
    import numpy.typing as npt

BROUGHT_PACK_BYTES = 32 * 1024 * 1024
"""Half of what a save writes: an upload that is cut short loses what arrived of one pack."""
Advance = Callable[[int], None]


class Origin(NamedTuple):
    """Where the checkpoint lies already, and what reads its chunks there."""

    run: Run
    checkpoint: CheckpointId
    copies: ChunkIndex
    reader: ChunkReader

    def __str__(self) -> str:
        return f"{self.run.name}@{self.checkpoint.step}"


def adopt(run: Run, manifest: Manifest, origin: Origin, advance: Advance = lambda size: None) -> Committed:
    """Make a checkpoint of another run, or of another repository, one of this run.

    Parameters
    ----------
    manifest : Manifest
        With the summary that it shall have here.
    origin : Origin
    advance : callable
        Told the bytes of each chunk moved, as it will rest.

    Raises
    ------
    DamagedError
        A chunk that is lacking here has no good copy there either.
    """
    started = time.monotonic()
    carrying = _Carrying(run, encode_manifest(manifest)[0], manifest, origin, advance)
    with run.repository.holding(saving=True):
        carrying.learn_unfinished()
        found = carrying.gather(frozenset())
        try:
            signature = carrying.signature()
            checkpoint, written = publish(run, manifest, found, carrying.gather, signature=signature)
        except DamagedError:
            carrying.take_back()
            raise
    return Committed(checkpoint, manifest, written.new_bytes, time.monotonic() - started)


def complete(
    run: Run,
    checkpoint: CheckpointId,
    manifest: Manifest,
    origin: Origin,
    advance: Advance = lambda size: None,
) -> int:
    """Bring what a checkpoint of this run has no good copy of any more; return the bytes moved.

    Raises
    ------
    DamagedError
        A chunk has no good copy there either.
    """
    carrying = _Carrying(run, checkpoint, manifest, origin, advance)
    with run.repository.holding(saving=True):
        carrying.learn_unfinished()
        written = carrying.gather(frozenset())
        put_hint(run, checkpoint, written.packs)
        learn(run, checkpoint, written)
    return written.new_bytes


def chunks_of(manifest: Manifest) -> dict[bytes, tuple[str, str]]:
    """Every chunk that a manifest references, in its order → name and dtype of a tensor that holds it."""
    return {
        digest: (name, entry.dtype)
        for name, entry in manifest.tensors.items()
        for shard in entry.shards
        for digest in split_digests(shard.chunks)
    }


class _Carrying:
    """Finds the chunks of one manifest, and moves those that are lacking."""

    def __init__(
        self, run: Run, checkpoint: CheckpointId, manifest: Manifest, origin: Origin, advance: Advance
    ) -> None:
        settle_allocator()  # every group of chunks is copied, and let go
        self._run = run
        self._manifest = manifest
        self._checkpoint = checkpoint
        self._chunks = chunks_of(manifest)
        self._origin = origin
        self._hints = origin.run.hints(origin.checkpoint)
        self._advance = advance

    def learn_unfinished(self) -> None:
        """Rely on what an adoption of the same checkpoint, which was cut short, has moved."""
        unfinished = self._run.hints(self._checkpoint)
        self._run.repository.index.load(unfinished)
        self._run.repository.dependable |= set(unfinished)

    def signature(self) -> bytes | None:
        """That of the origin, where the manifest is the same."""
        return carried(self._origin.run, self._origin.checkpoint, self._run, self._checkpoint)

    def take_back(self) -> None:
        """Condemn what was published: its packs have gone, and so has what they could be made from."""
        record = records.CondemnedRecord(str(self._checkpoint), self._run.storage.now_seconds())
        self._run.storage.put_if_absent(self._run.layout.condemn(self._checkpoint), records.encode(record))

    def gather(self, lost: frozenset[str]) -> Written:
        """Packs that hold all the chunks, without those that are lost."""
        finder = Finder(self._run, lost)
        found = {digest: finder.find(digest) for digest in self._chunks}
        used = {pack_id for pack_id in found.values() if pack_id is not None}
        new_packs = self._move([digest for digest, pack_id in found.items() if pack_id is None], used)
        new_bytes = sum(e.stored_bytes for entries in new_packs.values() for e in entries)
        return Written(self._manifest.tensors, new_packs, used, new_bytes)

    def _move(self, lacking: list[bytes], used: Iterable[str]) -> dict[str, list[PackEntry]]:
        new_packs: dict[str, list[PackEntry]] = {}
        self._origin.copies.cover(lacking, self._hints)
        try:
            for group in in_groups(lacking, self._raw_bytes, BROUGHT_PACK_BYTES):
                if new_packs:
                    put_hint(self._run, self._checkpoint, {*used, *new_packs})
                self._put(group, new_packs)
        except StorageError as error:
            if error.errno in FULL:  # else they stay, so that the next one need not move them again
                discard(self._run.storage, new_packs)
            raise
        return new_packs

    def _put(self, group: list[bytes], new_packs: dict[str, list[PackEntry]]) -> None:
        stored = self._read(group)
        builder = PackBuilder(layout.new_pack_id())
        new_packs[builder.pack_id] = builder.entries
        self._run.storage.put(layout.pack(builder.pack_id), pack_bytes(builder, [[one] for one in stored]))

    def _raw_bytes(self, digest: bytes) -> int:
        return next((c.entry.raw_bytes for c in self._origin.copies.copies(digest)), 0)

    def _read(self, group: list[bytes]) -> list[Stored]:
        """Verified chunks, encoded if they were."""
        stored: dict[bytes, Stored] = {}

        def sink(digest: bytes, raw: npt.NDArray[np.uint8]) -> None:
            stored[digest] = self._stored(digest, raw)
            self._advance(len(stored[digest].data))

        with self._holding_origin():
            failed = self._origin.reader.read(group, self._hints, sink)
        raise_damage(failed, lambda digest: {self._chunks[digest][0]}, f"The checkpoint {self._origin}")
        return [stored[digest] for digest in group]

    def _holding_origin(self) -> AbstractContextManager[None]:
        """While chunks for a pack are read. Writing takes longer, and retention must not wait for that."""
        origin = self._origin.run.repository
        return nullcontext() if origin is self._run.repository else origin.holding()

    def _stored(self, digest: bytes, raw: npt.NDArray[np.uint8]) -> Stored:
        encoded = None
        if any(copy.entry.codec != RAW for copy in self._origin.copies.copies(digest)):
            encoded = registry.encode(raw, self._chunks[digest][1])
        if encoded is None:
            return Stored(digest, len(raw), RAW, raw.tobytes())
        return Stored(digest, len(raw), encoded.codec, encoded.data)
