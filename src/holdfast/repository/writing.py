"""Tensors into packs: chunk, digest, skip what is there already, write, several packs in flight."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from itertools import chain
from typing import TYPE_CHECKING, TypeVar

import blake3
import msgspec

from holdfast.domain.manifest import Shard, TensorEntry, chunk_sizes, joined_digests, split_digests
from holdfast.domain.tensors import TensorSource
from holdfast.errors import HoldfastError
from holdfast.repository import layout
from holdfast.repository.pack import BLOCK_BYTES, MAGIC, MOST_ENTRY_BYTES, PackBuilder, PackEntry
from holdfast.storage.base import Storage

if TYPE_CHECKING:
    import numpy as np
    import numpy.typing as npt

    from holdfast.storage.base import Buffer

    Bytes = npt.NDArray[np.uint8]

Item = TypeVar("Item")
PACK_BYTES = 64 * 1024 * 1024
WRITERS = 3


class Written(msgspec.Struct):
    """What `write_tensors` made.

    Attributes
    ----------
    tensors : dict[str, TensorEntry]
        The manifest's table.
    new_packs : dict[str, list[PackEntry]]
        Packs written, with their contents.
    used_packs : set[str]
        Older packs relied on, because they hold the chunk already.
    new_bytes : int
        Bytes written to packs.
    """

    tensors: dict[str, TensorEntry]
    new_packs: dict[str, list[PackEntry]]
    used_packs: set[str]
    new_bytes: int

    @property
    def packs(self) -> frozenset[str]:
        """All that it relies on."""
        return frozenset(self.new_packs.keys() | self.used_packs)


class _Piece(msgspec.Struct, frozen=True, array_like=True):
    name: str
    number: int
    start: int
    size: int


class PackWriter:
    """Writes one checkpoint's tensors.

    Parameters
    ----------
    storage : Storage
    chunk_bytes : int
        Size of every chunk but a tensor's last.
    find : callable
        Digest → pack that may be relied on, or None: dedup.
    """

    def __init__(self, storage: Storage, chunk_bytes: int, find: Callable[[bytes], str | None]) -> None:
        self._storage = storage
        self._chunk_bytes = chunk_bytes
        self._find = find
        self._written: set[bytes] = set()
        self._used: set[str] = set()
        self._whole = storage.sends_whole
        self._rooms = threading.local()
        self.new_packs: dict[str, list[PackEntry]] = {}

    def write(self, sources: Mapping[str, TensorSource], known: Mapping[str, TensorEntry]) -> Written:
        """Write what the repository lacks; durable on return.

        Parameters
        ----------
        known : mapping
            Entries of tensors that are read only if the repository lacks a chunk of them.

        Raises
        ------
        StorageError
            After removing the packs already written, which nothing references yet.
        """
        standing = {name: entry for name, entry in known.items() if self._relied_on(entry)}
        read = {name: source for name, source in sources.items() if name not in standing}
        digests: dict[str, list[bytes]] = {}
        for name, source in read.items():
            digests[name] = [b""] * len(chunk_sizes(source.spec.size_bytes, self._chunk_bytes))
        try:
            groups = in_groups(self._pieces(read), lambda piece: piece.size, PACK_BYTES)
            self._write_groups(groups, read, digests)
        except BaseException:
            discard(self._storage, self.new_packs)
            raise
        tensors = {
            name: standing[name] if name in standing else _entry(source, digests[name])
            for name, source in sources.items()
        }
        new_bytes = sum(e.stored_bytes for entries in self.new_packs.values() for e in entries)
        return Written(tensors, self.new_packs, self._used, new_bytes)

    def _relied_on(self, entry: TensorEntry) -> bool:
        """Rely on packs that hold all of a tensor, if there are such."""
        packs = {self._find(digest) for digest in split_digests(joined_digests({"": entry}))}
        found = {pack for pack in packs if pack is not None}
        if len(found) == len(packs):
            self._used |= found
        return len(found) == len(packs)

    def _pieces(self, sources: Mapping[str, TensorSource]) -> Iterator[_Piece]:
        for name, source in sources.items():
            start = 0
            for number, size in enumerate(chunk_sizes(source.spec.size_bytes, self._chunk_bytes)):
                yield _Piece(name, number, start, size)
                start += size

    def _write_groups(
        self,
        groups: Iterator[list[_Piece]],
        sources: Mapping[str, TensorSource],
        digests: dict[str, list[bytes]],
    ) -> None:
        size_bytes = sum(source.spec.size_bytes for source in sources.values())
        if size_bytes <= PACK_BYTES:
            for group in groups:
                self._write_pack(group, sources, digests)
            return
        with ThreadPoolExecutor(WRITERS) as pool:
            # The first packs are under way while the rest are still being divided.
            futures = [pool.submit(self._write_pack, group, sources, digests) for group in groups]
            try:
                for future in futures:
                    future.result()
            except BaseException:
                pool.shutdown(cancel_futures=True)
                raise

    def _write_pack(
        self, group: list[_Piece], sources: Mapping[str, TensorSource], digests: dict[str, list[bytes]]
    ) -> None:
        room = self._room_for_all(group) if self._whole else _new(max(piece.size for piece in group))
        fresh = self._fresh(group, sources, digests, room, in_turn=self._whole)
        first = next(fresh, None)
        if first is None:
            return
        builder, chunks = PackBuilder(layout.new_pack_id()), chain([first], fresh)
        self.new_packs[builder.pack_id] = builder.entries
        parts = [_collected(builder, chunks, room)] if self._whole else _parts(builder, chunks)
        self._storage.put(layout.pack(builder.pack_id), parts)

    def _room_for_all(self, group: list[_Piece]) -> Bytes:
        """Memory for a pack of these, which this thread uses for the next one again."""
        need_bytes = sum(piece.size for piece in group) + len(group) * MOST_ENTRY_BYTES + 2 * BLOCK_BYTES
        room: Bytes | None = getattr(self._rooms, "held", None)
        if room is None or len(room) < need_bytes:
            room = self._rooms.held = _new(max(need_bytes, PACK_BYTES))
        return room

    def _fresh(
        self,
        group: list[_Piece],
        sources: Mapping[str, TensorSource],
        digests: dict[str, list[bytes]],
        room: Bytes,
        *,
        in_turn: bool,
    ) -> Iterator[tuple[bytes, Bytes]]:
        """Digest each piece; yield those that must be written.

        What is digested is a copy, and the copy is what is written: should another thread change
        the tensor meanwhile, the checkpoint is of mixed moments, but it verifies.

        Parameters
        ----------
        room : uint8[:]
            Where the copies go.
        in_turn : bool
            Each behind the one before, as a pack has them; else all to the same place.
        """
        import numpy as np

        name, data = None, None
        start = len(MAGIC) if in_turn else 0
        for piece in group:
            if piece.name != name or data is None:
                name, data = piece.name, sources[piece.name].read()
            chunk = room[start : start + piece.size]
            np.copyto(chunk, data[piece.start : piece.start + piece.size])
            digest = blake3.blake3(chunk.data).digest()
            digests[piece.name][piece.number] = digest
            if digest in self._written:
                continue
            pack_id = self._find(digest)
            if pack_id is not None:
                self._used.add(pack_id)
                continue
            self._written.add(digest)
            yield digest, chunk
            start += piece.size if in_turn else 0


def discard(storage: Storage, new_packs: dict[str, list[PackEntry]]) -> None:
    """Remove packs just written: only while no manifest was offered that names their chunks."""
    for pack_id in list(new_packs):
        try:
            storage.delete(layout.pack(pack_id))
        except HoldfastError:
            continue  # an orphan; the next prune takes it
        del new_packs[pack_id]


def _new(size_bytes: int) -> Bytes:
    import numpy as np

    return np.empty(size_bytes, np.uint8)


def _collected(builder: PackBuilder, chunks: Iterable[tuple[bytes, Bytes]], room: Bytes) -> Buffer:
    """The pack in one piece; its chunks lie where they belong already."""
    import numpy as np

    end = len(MAGIC)
    for digest, data in chunks:
        builder.add(digest, len(data))
        end += len(data)
    room[: len(MAGIC)] = np.frombuffer(MAGIC, np.uint8)
    for part in builder.finish():
        room[end : end + len(part)] = np.frombuffer(part, np.uint8)
        end += len(part)
    return room[:end].data


def _parts(builder: PackBuilder, chunks: Iterable[tuple[bytes, Bytes]]) -> Iterator[Buffer]:
    yield MAGIC
    for digest, data in chunks:
        builder.add(digest, len(data))
        yield data
    yield from builder.finish()


def in_groups(items: Iterable[Item], size_of: Callable[[Item], int], most_bytes: int) -> Iterator[list[Item]]:
    """Cut items, in order, into groups of at most so many bytes, or of one that is larger."""
    group: list[Item] = []
    size_bytes = 0
    for item in items:
        more_bytes = size_of(item)
        if group and size_bytes + more_bytes > most_bytes:
            yield group
            group, size_bytes = [], 0
        group.append(item)
        size_bytes += more_bytes
    if group:
        yield group


def _entry(source: TensorSource, digests: list[bytes]) -> TensorEntry:
    spec = source.spec
    shard = Shard((0,) * len(spec.shape), spec.shape, b"".join(digests))
    return TensorEntry(spec.dtype, spec.shape, (shard,))
