"""Chunks out of packs: every one is checked against its digest before it is handed on."""

from __future__ import annotations

import errno
from collections.abc import Callable, Collection, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from itertools import islice
from typing import TYPE_CHECKING

import blake3

from holdfast.codecs.base import MAX_RAW_BYTES
from holdfast.codecs.registry import CODECS
from holdfast.codecs.scratch import Scratch
from holdfast.errors import DamagedError, FormatError, NotFoundError, StorageError
from holdfast.repository import layout
from holdfast.repository.decoded import DecodedChunks
from holdfast.repository.index import ChunkIndex, Copy
from holdfast.repository.pack import RAW
from holdfast.repository.readahead import BUFFERS, ReadAhead, coalesce
from holdfast.storage.base import Storage
from holdfast.storage.sealed import at_rest

if TYPE_CHECKING:
    import numpy as np
    import numpy.typing as npt

    from holdfast.repository.chunk_cache import ChunkCache

    Bytes = npt.NDArray[np.uint8]

WORKERS = 2
ROUNDS = 3
_DECODED = Scratch()
Sink = Callable[[bytes, "Bytes"], None]


class ChunkReader:
    """Reads chunks from packs, several reads in flight, each chunk verified.

    A chunk whose bytes do not match is read again; a copy found bad twice is recorded, and
    the next copy is tried. A pack that has vanished since its index was read is forgotten,
    and the indexes that are there now are read before damage is declared. The bases of a chunk are
    read before it; what only serves as a base is verified where the chunk does not match.

    Parameters
    ----------
    tells_unread : bool
        Tell of what the device cannot read like of damage, but record nothing; else that ends the read.
    """

    def __init__(
        self,
        storage: Storage,
        index: ChunkIndex,
        cache: ChunkCache | None = None,
        *,
        tells_unread: bool = False,
    ) -> None:
        self._storage = storage
        self._index = index
        self._cache = cache
        self._tells_unread = tells_unread

    def begin(self, hints: Collection[str]) -> ReadAhead:
        """Start to read what these packs hold, before it is known what of it will be asked for.

        As much as there are buffers for; `read` takes it over.
        """
        if self._cache is not None:  # which may have all of it
            return ReadAhead(self._storage)
        self._index.load(hints)  # all of them: later, each would wait for a disk that is busy
        stretches = list(islice(coalesce(self._held_by(hints)), BUFFERS))
        ahead = ReadAhead(self._storage)
        ahead.extend(stretches)
        return ahead

    def _held_by(self, packs: Iterable[str]) -> Iterator[Copy]:
        """One copy of each chunk in these packs.

        Only those that stand alone: the newest checkpoint, read most, needs no other.
        """
        met: set[bytes] = set()
        for pack_id in packs:
            for copy in self._index.copies_in(pack_id):
                if copy.entry.digest not in met and not copy.entry.bases:
                    met.add(copy.entry.digest)
                    yield copy

    def read(
        self, digests: Collection[bytes], hints: Iterable[str], sink: Sink, ahead: ReadAhead | None = None
    ) -> dict[bytes, str]:
        """Hand every chunk to ``sink(digest, bytes)``, in any order, from several threads.

        The bytes are valid only during the call.

        Parameters
        ----------
        ahead : ReadAhead, optional
            What `begin` has begun.

        Returns
        -------
        dict[bytes, str]
            The chunks of which no good copy is left, each with the reason.
        """
        if self._cache is None:
            return self._read(set(digests), list(hints), sink, ahead)
        wanted = set(digests).difference(self._cached(digests, sink, self._cache))
        lacking = self._read(wanted, list(hints), self._caching(sink, self._cache), ahead)
        if wanted:
            self._cache.trim()
        return lacking

    def _cached(self, digests: Collection[bytes], sink: Sink, cache: ChunkCache) -> Iterator[bytes]:
        for digest in digests:
            chunk = cache.take(digest)
            if chunk is not None:
                sink(digest, chunk)
                yield digest

    def _caching(self, sink: Sink, cache: ChunkCache) -> Sink:
        def taking(digest: bytes, chunk: Bytes) -> None:
            sink(digest, chunk)
            cache.keep(digest, chunk)

        return taking

    def _read(
        self, wanted: set[bytes], hints: list[str], sink: Sink, ahead: ReadAhead | None
    ) -> dict[bytes, str]:
        reasons: dict[bytes, str] = {}
        with ReadAhead(self._storage) if ahead is None else ahead as reading:
            for _ in range(ROUNDS):
                lacking = self._index.cover(wanted, hints)
                reasons.update((d, self._why_lacking(d)) for d in lacking if d not in reasons)
                failed = self._read_covered(wanted - lacking, sink, reading)
                reasons.update(failed)
                wanted = lacking | failed.keys()
                if not failed:
                    break
        return {d: reasons[d] for d in wanted}

    def _read_covered(self, wanted: set[bytes], sink: Sink, ahead: ReadAhead) -> dict[bytes, str]:
        begun = {c.entry.digest: c for c in ahead.copies()}
        own = {d: begun[d] if d in begun else self._index.copies(d)[0] for d in wanted}
        asked = _Asked(own, set(self._below(own.values())))
        copies = {*own.values(), *asked.bases}.difference(begun.values())
        ahead.extend(coalesce(sorted(copies, key=lambda c: (c.pack, c.entry.offset))))
        if ahead.is_brief:
            return self._look_at(ahead, asked, sink)
        failed: dict[bytes, str] = {}
        with ThreadPoolExecutor(WORKERS) as pool:
            try:
                for result in pool.map(lambda _: self._look_at(ahead, asked, sink), range(WORKERS)):
                    failed.update(result)
            except BaseException:
                ahead.stop()
                raise
        return failed

    def _below(self, copies: Iterable[Copy]) -> Iterator[Copy]:
        """The bases of these copies, and theirs."""
        for copy in copies:
            if copy.entry.bases:
                bases = self._index.bases(copy)
                yield from bases
                yield from self._below(bases)

    def _look_at(self, ahead: ReadAhead, asked: _Asked, sink: Sink) -> dict[bytes, str]:
        """Digest what has been read and hand on what is right."""
        failed: dict[bytes, str] = {}
        for read in ahead.reads():
            taken = [c for c in read.stretch if asked.own.get(c.entry.digest) == c or c in asked.bases]
            if not taken:
                continue
            with asked.decoded.coming(asked.bases.intersection(taken)):
                start, data = read.stretch[0].entry.offset, read.bytes()
                for copy in taken:
                    at = copy.entry.offset - start
                    reason = self._take(copy, data[at : at + copy.entry.stored_bytes], asked, sink)
                    if reason is not None:
                        failed[copy.entry.digest] = reason
        return failed

    def _take(self, copy: Copy, stored: Bytes, asked: _Asked, sink: Sink) -> str | None:
        """Hand on a chunk, keep a base; why no copy is good of what is to be handed on."""
        is_wanted = asked.own.get(copy.entry.digest) == copy
        unpack = self._unpacked if is_wanted else self._as_base
        raw = self._if_readable(copy, stored, asked.decoded, unpack)
        if raw is None:
            asked.decoded.failed(copy)  # a base is met again by those that need it
            return self._again(copy, sink) if is_wanted else None
        if is_wanted:
            if copy in asked.bases:
                asked.decoded.keep(copy, raw.copy())
            sink(copy.entry.digest, raw)
        return None

    def _if_readable(
        self,
        copy: Copy,
        stored: Bytes,
        decoded: DecodedChunks,
        unpack: Callable[[Copy, Bytes, DecodedChunks], Bytes | None],
    ) -> Bytes | None:
        try:
            return unpack(copy, stored, decoded)
        except StorageError as error:  # of a base: `_again` tells, unless another copy can be read
            if error.errno != errno.EIO:
                raise
            return None

    def chunk(self, copy: Copy) -> Bytes | None:
        """The chunk of one copy, verified; None if it or what it needs is bad. Records nothing.

        It is valid until the same thread reads another.

        Raises
        ------
        NotFoundError
            The pack is gone.
        """
        return self._unpacked(copy, self._stored(copy), DecodedChunks())

    def _unpacked(self, copy: Copy, stored: Bytes, decoded: DecodedChunks) -> Bytes | None:
        bases = self._bases(copy, decoded)
        return unpacked(copy, stored, bases) if bases is not None else None

    def _as_base(self, copy: Copy, stored: Bytes, decoded: DecodedChunks) -> Bytes | None:
        """Unpack what only others need, without its digest: theirs would not match if it were wrong."""
        bases = self._bases(copy, decoded)
        raw = _own(copy, stored, bases) if bases is not None else None
        return decoded.keep(copy, raw) if raw is not None else None

    def _bases(self, copy: Copy, decoded: DecodedChunks) -> list[Bytes] | None:
        """What a copy is decoded by; None where one of it is bad."""
        bases: list[Bytes] = []
        for base in self._index.bases(copy):
            raw = decoded.find(base, copy)
            if raw is None:
                raw = self._read_base(base, decoded)
            if raw is None:
                return None
            bases.append(raw)
        return bases

    def _read_base(self, base: Copy, decoded: DecodedChunks) -> Bytes | None:
        """One that is not at hand any more, or not yet: read for itself."""
        try:
            return self._as_base(base, self._stored(base), decoded)
        except NotFoundError:
            return None

    def _stored(self, copy: Copy) -> Bytes:
        """As it rests; nothing where that does not unseal."""
        import numpy as np

        stop = copy.entry.offset + copy.entry.stored_bytes
        with suppress(DamagedError):
            return np.frombuffer(self._storage.get(layout.pack(copy.pack), copy.entry.offset, stop), np.uint8)
        return np.empty(0, np.uint8)

    def _again(self, first: Copy, sink: Sink) -> str | None:
        """Second read of a bad copy, then of every other; None once one was good.

        Raises
        ------
        StorageError
            One cannot be read, which is no damage, and no other one is good.
        """
        digest = first.entry.digest
        reason, unread = "", None
        for copy in [first, *(c for c in self._index.copies(digest) if c != first)]:
            try:
                reason = self._one(copy, sink)
            except StorageError as error:
                if error.errno != errno.EIO:
                    raise
                unread = error
                continue
            if not reason:
                return None
        if unread is not None and not self._tells_unread:
            raise unread
        return f"it cannot be read: {unread.what}" if unread is not None else reason

    def _one(self, copy: Copy, sink: Sink, role: str = "copy") -> str:
        bases: list[Bytes] = []
        for base in self._index.bases(copy):
            if base not in self._index.copies(base.entry.digest):  # found bad before
                return f"its base in pack {copy.pack} is damaged"
            reason = self._one(base, lambda _, raw: bases.append(raw.copy()), "base")
            if reason:
                return reason
        try:
            stored = self._stored(copy)
            for again in (False, True):
                stored = self._stored(copy) if again else stored
                if (chunk := unpacked(copy, stored, bases)) is not None:
                    sink(copy.entry.digest, chunk)
                    return ""
        except NotFoundError:
            self._index.forget(copy.pack)
            return f"pack {copy.pack} is missing"
        reason = self._why_bad(stored, copy)
        with suppress(StorageError):  # who may not write must still learn what is wrong
            self._index.record_damage(copy.pack, [copy.entry.digest], reason)
        return f"its {role} in pack {copy.pack} {reason}"

    def _why_bad(self, stored: Bytes, copy: Copy) -> str:
        if not len(stored) and at_rest(self._storage) is not self._storage:
            return "does not unseal"
        return "is cut short" if len(stored) < copy.entry.stored_bytes else "does not match its digest"

    def _why_lacking(self, digest: bytes) -> str:
        bad = self._index.last_copies(digest)
        if bad:
            return f"its copy in pack {bad[0].pack} was found damaged before"
        broken = self._index.unreadable
        if not broken:
            return "no pack holds it"
        first = next(iter(broken.values())).removesuffix(".")
        others = ", and others are" if len(broken) > 1 else ""
        return f"no readable pack holds it ({first}{others})"


class _Asked:
    """What a read is for: the copy of each chunk to hand on, and the bases that these need."""

    def __init__(self, own: dict[bytes, Copy], bases: set[Copy]) -> None:
        self.own = own
        self.bases = bases
        self.decoded = DecodedChunks()


def unpacked(copy: Copy, stored: Bytes, bases: Sequence[Bytes] = ()) -> Bytes | None:
    """The chunk that these stored bytes decode to by these bases, if it matches its digest.

    It is valid until the same thread unpacks another.

    Raises
    ------
    FormatError
        Its codec is a newer version's.
    """
    raw = stored if copy.entry.codec == RAW else _decoded(copy, stored, bases, _DECODED.take)
    if raw is None or len(raw) != copy.entry.raw_bytes:
        return None
    return raw if blake3.blake3(raw.data).digest() == copy.entry.digest else None


def _own(copy: Copy, stored: Bytes, bases: Sequence[Bytes]) -> Bytes | None:
    """The chunk that these stored bytes decode to, in memory of its own; nothing says that it is right."""
    if copy.entry.codec == RAW:
        return stored.copy() if len(stored) == copy.entry.raw_bytes else None
    return _decoded(copy, stored, bases, _new)


def _new(size_bytes: int) -> Bytes:
    import numpy as np

    return np.empty(size_bytes, np.uint8)


def _decoded(
    copy: Copy, stored: Bytes, bases: Sequence[Bytes], memory: Callable[[int], Bytes]
) -> Bytes | None:
    codec = CODECS.get(copy.entry.codec)
    if codec is None:
        raise FormatError(
            f"Pack {copy.pack} uses the codec {copy.entry.codec!r}, unknown to this version.",
            do="Upgrade holdfast.",
        )
    if not 0 <= copy.entry.raw_bytes <= MAX_RAW_BYTES:  # before memory is taken for it
        return None
    if b"".join(codec.named(stored.data)) != copy.entry.bases:
        return None
    raw = memory(copy.entry.raw_bytes)
    try:
        codec.decode(stored, raw, bases)
    except DamagedError:
        return None
    return raw
