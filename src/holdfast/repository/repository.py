"""A repository as a whole: opening, creating, its runs, its locks."""

from __future__ import annotations

import errno
import fnmatch
import os
import secrets
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager

import msgspec

from holdfast.codecs.base import MAX_RAW_BYTES
from holdfast.domain.manifest_file import decode_manifest
from holdfast.domain.names import validate_run
from holdfast.errors import BusyError, DamagedError, FormatError, NotFoundError, StorageError, UsageError
from holdfast.repository import layout, records
from holdfast.repository.chunk_cache import chosen_cache
from holdfast.repository.chunks import ChunkReader
from holdfast.repository.index import ChunkIndex
from holdfast.repository.keyring.given import given_keys
from holdfast.repository.run import Run
from holdfast.repository.sealing import lost_config, unsealed, write_config
from holdfast.storage.base import Storage
from holdfast.storage.sealed import at_rest

CHUNK_BYTES = 1024 * 1024
MIN_CHUNK_BYTES, MAX_CHUNK_BYTES = 4096, MAX_RAW_BYTES
LOCK_WAIT_SECONDS = 60.0
NOT_WRITABLE = (errno.EROFS, errno.EACCES, errno.EPERM)
_INSIDE_RUN = ("attempts", "checkpoints")


class Repository:
    """Where checkpoints live.

    Attributes
    ----------
    storage : Storage
    id : str
        Random, made when the repository was created; every manifest carries it.
    chunk_bytes : int
    index : ChunkIndex
        Where chunks lie, as far as this process has looked.
    dependable : set[str]
        Packs that a committed checkpoint references: only these may save a chunk from
        being written again.
    doubtful : set[str]
        Checkpoints whose commit had an unknown outcome: left alone, not counted.
    """

    def __init__(self, storage: Storage, config: records.RepositoryConfig) -> None:
        self.storage = storage
        self.id = config.id
        self.chunk_bytes = config.chunk_bytes
        self.index = ChunkIndex(storage)
        self.reader = ChunkReader(storage, self.index, chosen_cache(storage, os.environ))
        self.dependable: set[str] = set()
        self.doubtful: set[str] = set()
        self.marks: dict[tuple[str, str], frozenset[str]] = {}

    @classmethod
    def open(cls, storage: Storage, *, plain: bool = False) -> Repository:
        """Open an existing repository; never creates one.

        Parameters
        ----------
        plain : bool
            It may be open to everybody although a key is given.

        Raises
        ------
        NotFoundError
            There is none, or it lost its ``holdfast.json``.
        FormatError
            It was written by a newer version.
        SealedError
            It is sealed, and no key was given that opens it.
        """
        config = read_config(storage)
        return cls(unsealed(storage, config, plain=plain), config)

    @classmethod
    def create(
        cls,
        storage: Storage,
        *,
        chunk_bytes: int = CHUNK_BYTES,
        repository_id: str | None = None,
        plain: bool = False,
    ) -> Repository:
        """Open a repository, making it first if there is none: a sealed one if a key is given.

        Parameters
        ----------
        chunk_bytes : int
        repository_id : str, optional
            That of the repository that the new one shall be a copy of.
        plain : bool
            It may be, or become, open to everybody although a key is given.

        Raises
        ------
        NotFoundError
            There are packs or runs, but no ``holdfast.json``: never covered up.
        """
        if not MIN_CHUNK_BYTES <= chunk_bytes <= MAX_CHUNK_BYTES:
            raise UsageError(
                f"A chunk size of {chunk_bytes} bytes is out of bounds.", do="Use 4 KiB to 64 MiB."
            )
        if storage.stat(layout.CONFIG) is None:
            if _has_remains(storage):
                raise _no_repository(storage)
            keys = [] if plain else given_keys()
            write_config(storage, repository_id or secrets.token_hex(16), chunk_bytes, keys)
        return cls.open(storage, plain=plain)

    @property
    def is_sealed(self) -> bool:
        """Whether what rests there is encrypted."""
        return at_rest(self.storage) is not self.storage

    def run(self, name: str) -> Run:
        """One run by name, whether or not anything is recorded of it yet."""
        return Run(self, name)

    def runs(self, pattern: str = "*") -> list[Run]:
        """Runs whose names match a shell pattern (``sweep/*``), by name."""
        return [self.run(n) for n in self._names() if fnmatch.fnmatchcase(n, pattern) and _is_run(n)]

    def every_run(self) -> list[Run]:
        """All runs, for who removes what none of them needs.

        Raises
        ------
        DamagedError
            A folder has a run's contents, but not a name that a run can have: people rename and copy them,
            or put manifests aside within a run.
        """
        names = self._names()
        stray = next((n for n in names if not _is_run(n)), None)
        if stray is not None:
            raise DamagedError(
                f"The folder {layout.RUNS}{stray} in {self.storage.location} is like a run's, but no run can "
                "have that name. Nobody knows whether it is still needed, so nothing was deleted.",
                do="Move it out of the repository, or give it a name of letters, digits and _ . + = - only.",
            )
        return [self.run(n) for n in names]

    def _names(self) -> list[str]:
        """Names below which attempts or checkpoints lie, sorted; also those that no run can have."""
        names = set()
        for key in self.storage.list(layout.RUNS):
            parts = key.removeprefix(layout.RUNS).split("/")
            if len(parts) >= 3 and parts[-2] in _INSIDE_RUN:
                names.add("/".join(parts[:-2]))
            elif parts[-1].endswith(".manifest"):
                names.add("/".join(parts[:-1]))  # moved aside
        return sorted(names)

    def condemned_packs(self) -> dict[str, records.CondemnedRecord]:
        """Packs that nothing new may rely on. A record that cannot be read still condemns."""
        result = {}
        for key in self.storage.list(layout.CONDEMNED_PACKS):
            pack_id = layout.pack_id_of(f"{key.removesuffix('.json')}.pack")
            if pack_id is None:
                continue  # not one of ours
            record = records.read_or_none(self.storage, key, records.CondemnedRecord)
            result[pack_id] = record or records.CondemnedRecord(pack_id, self.storage.now_seconds())
        return result

    @contextmanager
    def holding(self, *, saving: bool = False) -> Iterator[None]:
        """Keep everything that is there in place while reading or saving.

        Raises
        ------
        BusyError
            A prune in another process did not end in time.
        StorageError
            The lock cannot be taken, and it is for ``saving``; who may only read goes on without.
        """
        if not self.storage.exclusive_locks:
            yield
            return
        with ExitStack() as stack:
            try:
                held = self._enter(stack)
            except StorageError as error:
                if saving or error.errno not in NOT_WRITABLE:
                    raise
                held = True
            if not held:
                raise BusyError(
                    f"The repository {self.storage.location} is being pruned by another process.",
                    do="Try again when it has finished.",
                )
            yield

    def _enter(self, stack: ExitStack) -> bool:
        with self.storage.lock(layout.TURN_LOCK, shared=True, wait_seconds=LOCK_WAIT_SECONDS) as turn:
            if not turn:
                return False
        lock = self.storage.lock(layout.REPOSITORY_LOCK, shared=True, wait_seconds=LOCK_WAIT_SECONDS)
        return stack.enter_context(lock)

    @contextmanager
    def excluding(self, wait_seconds: float) -> Iterator[bool]:
        """Exclude every saver and reader, where the storage can; False if not to be had in time."""
        if not self.storage.exclusive_locks:
            yield True
            return
        with ExitStack() as stack:
            for name in (layout.TURN_LOCK, layout.REPOSITORY_LOCK):
                lock = self.storage.lock(name, shared=False, wait_seconds=wait_seconds)
                if not stack.enter_context(lock):
                    yield False
                    return
            yield True


def read_config(storage: Storage) -> records.RepositoryConfig:
    """What ``holdfast.json`` says, which is open to everybody; raises as `Repository.open` does."""
    try:
        config = records.read(storage, layout.CONFIG, records.RepositoryConfig)
    except NotFoundError:
        raise _no_repository(storage) from None
    except DamagedError as error:
        raise DamagedError(error.what, do=f"'holdfast repair {storage.location}' rebuilds it.") from error
    if not MIN_CHUNK_BYTES <= config.chunk_bytes <= MAX_CHUNK_BYTES:
        raise DamagedError(f"The chunk size in {layout.CONFIG} of {storage.location} is out of bounds.")
    newest = records.FORMAT_VERSION if config.sealed is None else records.SEALED_FORMAT_VERSION
    if config.format > newest:
        raise FormatError(
            f"The repository {storage.location} has format {config.format}, newer than this version.",
            do="Upgrade holdfast.",
        )
    return config


def _no_repository(storage: Storage) -> NotFoundError:
    if _has_remains(storage):
        return NotFoundError(
            f"{storage.location} holds checkpoints but lost its {layout.CONFIG}.",
            do=f"'holdfast repair {storage.location}' rebuilds it from a manifest.",
        )
    return NotFoundError(
        f"There is no repository at {storage.location}.",
        do="Check the path; training with a Checkpointer, or 'holdfast init', creates one.",
    )


def _has_remains(storage: Storage) -> bool:
    return any(next(iter(storage.list(p)), None) is not None for p in (layout.PACKS, layout.RUNS))


def _is_run(name: str) -> bool:
    try:
        validate_run(name)
    except UsageError:
        return False
    return True


def recover_config(storage: Storage) -> records.RepositoryConfig | None:
    """What a lost ``holdfast.json`` said, read from any manifest that verifies; None if none does."""
    lost = lost_config(storage) or records.RepositoryConfig(records.FORMAT_VERSION, "", CHUNK_BYTES)
    probe = Repository(unsealed(storage, lost), lost)
    for run in probe.runs():
        for checkpoint in reversed(run.all_checkpoints()):
            try:
                data = probe.storage.get(run.layout.checkpoint(checkpoint))
                manifest = decode_manifest(data, checkpoint)
            except (DamagedError, NotFoundError, msgspec.MsgspecError):
                continue
            told = {"id": manifest.summary.repository, "chunk_bytes": manifest.chunk_bytes}
            return msgspec.structs.replace(lost, **told)
    return None
