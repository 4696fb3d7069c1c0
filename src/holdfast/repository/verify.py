"""Checking: every chunk of every checkpoint, and what to record of what is found."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Collection, Iterable
from threading import Lock
from typing import TYPE_CHECKING

import msgspec

from holdfast.domain.manifest import Manifest, TensorEntry, chunk_sizes, split_digests
from holdfast.domain.names import CheckpointId
from holdfast.domain.tensors import TensorSpec
from holdfast.errors import DamagedError, FormatError, NotFoundError
from holdfast.repository.chunks import ChunkReader
from holdfast.repository.index import ChunkIndex
from holdfast.repository.repository import Repository
from holdfast.repository.run import Run
from holdfast.storage.base import Storage

if TYPE_CHECKING:
    import numpy as np
    import numpy.typing as npt


class Verdict(msgspec.Struct, frozen=True):
    """What was found of one checkpoint.

    Attributes
    ----------
    ok : bool
    manifest : str or None
        What is wrong with its manifest.
    tensors : dict[str, str]
        Damaged tensor → what is wrong, naming the pack.
    checked_bytes : int
        Bytes read and checked for it; chunks checked before count once.
    proven : bool
        Whether bytes were read twice and are wrong: reason to reject it. A pack that is
        merely missing may come back.
    newer : bool
        It was written by a newer version, so nothing can be said.
    """

    run: str
    id: CheckpointId
    manifest: str | None = None
    tensors: dict[str, str] = {}
    checked_bytes: int = 0
    proven: bool = False
    newer: bool = False

    @property
    def ok(self) -> bool:
        return self.manifest is None and not self.tensors and not self.newer

    @property
    def reason(self) -> str:
        """The damage in one line."""
        if self.manifest is not None:
            return self.manifest
        lines = [f"tensor {name}: {why}" for name, why in self.tensors.items()]
        more = f"; and {len(lines) - 3} more tensors" if len(lines) > 3 else ""
        return "; ".join(lines[:3]) + more


class Verifier:
    """Checks checkpoints one after the other, each chunk once, writing nothing.

    Parameters
    ----------
    repository : Repository
    advance : callable, optional
        Told the bytes of each chunk checked.
    """

    def __init__(self, repository: Repository, advance: Callable[[int], None] = lambda size: None) -> None:
        self._repository = repository
        self._advance = advance
        self.index = UnrecordedIndex(repository.storage)
        self._reader = ChunkReader(repository.storage, self.index, tells_unread=True)
        self._good: dict[bytes, int] = {}
        self._bad: dict[bytes, str] = {}

    def check(self, run: Run, checkpoint: CheckpointId) -> Verdict | None:
        """Check one checkpoint; None if it was deleted meanwhile."""
        with self._repository.holding():
            try:
                manifest = run.manifest(checkpoint)
                return self._tensors(run, checkpoint, manifest)
            except NotFoundError:
                return None
            except DamagedError as error:
                return Verdict(run.name, checkpoint, manifest=error.what, proven=True)
            except FormatError as error:
                return Verdict(run.name, checkpoint, manifest=error.what, newer=True)

    def _tensors(self, run: Run, checkpoint: CheckpointId, manifest: Manifest) -> Verdict:
        digests = manifest.digests()
        hints = run.hints(checkpoint)
        checked_bytes = self._read(digests - self._good.keys() - self._bad.keys(), hints)
        tensors = {}
        for name, entry in manifest.tensors.items():
            problem = self._problem(entry, manifest.chunk_bytes)
            if problem is not None:
                tensors[name] = problem
        return Verdict(
            run.name,
            checkpoint,
            tensors=tensors,
            checked_bytes=checked_bytes,
            proven=bool(tensors) and self.index.proves_damage(digests & self._bad.keys(), hints),
        )

    def _problem(self, entry: TensorEntry, chunk_bytes: int) -> str | None:
        for shard in entry.shards:
            sizes = chunk_sizes(TensorSpec(entry.dtype, shard.sizes).size_bytes, chunk_bytes)
            for digest, size in zip(split_digests(shard.chunks), sizes, strict=True):
                if digest in self._bad:
                    return self._bad[digest]
                if self._good[digest] != size:  # only a forged manifest says so
                    return "it names a chunk of another size"
        return None

    def _read(self, digests: Collection[bytes], hints: list[str]) -> int:
        checked_bytes, lock = 0, Lock()

        def sink(digest: bytes, data: npt.NDArray[np.uint8]) -> None:
            nonlocal checked_bytes
            with lock:
                self._good[digest] = len(data)
                checked_bytes += len(data)
                self._advance(len(data))

        self._bad.update(self._reader.read(digests, hints, sink))
        return checked_bytes

    def record(self, verdicts: Iterable[Verdict]) -> list[Verdict]:
        """Record bad copies, and reject the checkpoints proven damaged; return those rejected now."""
        self.index.record_all()
        rejected = []
        for verdict in verdicts:
            run = self._repository.run(verdict.run)
            if verdict.proven and str(verdict.id) not in run.rejected():
                run.reject(verdict.id, verdict.reason)
                rejected.append(verdict)
        return rejected


class UnrecordedIndex(ChunkIndex):
    """An index that keeps what it learns of bad copies to itself until asked to record it."""

    def __init__(self, storage: Storage) -> None:
        super().__init__(storage)
        self._found: dict[tuple[str, str], set[bytes]] = defaultdict(set)

    def record_damage(self, pack_id: str, digests: Collection[bytes], reason: str) -> None:
        self._note_bad(pack_id, digests)
        self._found[pack_id, reason] |= set(digests)

    @property
    def found(self) -> dict[tuple[str, str], set[bytes]]:
        """Pack and reason → bad copies in it, not recorded yet."""
        return self._found

    def record_all(self) -> None:
        """Durably note what was found."""
        for (pack_id, reason), digests in self._found.items():
            super().record_damage(pack_id, digests, reason)
        self._found.clear()
