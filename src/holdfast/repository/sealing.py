"""Whether a repository is sealed, and the storage through which it is used then."""

from __future__ import annotations

from collections.abc import Sequence

from holdfast.errors import FormatError, UnsupportedError, UsageError
from holdfast.repository import layout, records
from holdfast.repository.keyring import entries
from holdfast.repository.keyring.base import GivenKey
from holdfast.repository.keyring.given import given_keys
from holdfast.repository.records import RepositoryConfig
from holdfast.storage.base import Storage
from holdfast.storage.sealed import SealedStorage, at_rest


def unsealed(storage: Storage, config: RepositoryConfig, *, plain: bool = False) -> Storage:
    """The storage as the repository uses it.

    Parameters
    ----------
    plain : bool
        It may be open to everybody although a key is given.

    Raises
    ------
    SealedError
        No key was given, or none that opens it.
    UsageError
        A key was given, but nothing is sealed here: somebody may have put another repository in its place.
    """
    if isinstance(storage, SealedStorage):
        return storage
    if config.sealed is None:
        if not plain and given_keys():
            raise _not_sealed(storage)
        return storage
    if config.sealed.scheme != entries.SCHEME:
        raise FormatError(
            f"The repository {storage.location} is sealed in a way that this version does not know.",
            do="Upgrade holdfast.",
        )
    _need_cryptography(storage.location)
    secret, _ = entries.opened(storage, config, given_keys())
    return SealedStorage(storage, secret, config.id)


def write_config(storage: Storage, repository_id: str, chunk_bytes: int, keys: Sequence[GivenKey]) -> None:
    """Create ``holdfast.json``, unless it is there; with keys, of a repository sealed by the first of them.

    The key's entry comes first: a repository is never there without one.
    """
    if not keys:
        config = RepositoryConfig(records.FORMAT_VERSION, repository_id, chunk_bytes)
        storage.put_if_absent(layout.CONFIG, records.encode(config))
        return
    _need_cryptography(storage.location)
    secret, sealing = entries.new_sealing()
    config = RepositoryConfig(records.SEALED_FORMAT_VERSION, repository_id, chunk_bytes, sealing)
    entry = entries.add(storage, config, secret, keys[0])
    if not storage.put_if_absent(layout.CONFIG, records.encode(config)):
        entries.discard(storage, entry.id)  # another one was faster; its own stays


def lost_config(storage: Storage) -> RepositoryConfig | None:
    """What ``holdfast.json`` of a sealed repository said but for its chunk size; None if no key tells."""
    for entry in entries.every_entry(at_rest(storage)):
        sealing = records.Sealing(entries.SCHEME, entry.secret)
        return RepositoryConfig(records.SEALED_FORMAT_VERSION, entry.repository, 0, sealing)
    return None


def _not_sealed(storage: Storage) -> UsageError:
    return UsageError(
        f"A key was given, but {storage.location} is not sealed.",
        do="If that is as it should be, unset HOLDFAST_KEY and its like; 'holdfast sync' seals a copy.",
    )


def _need_cryptography(location: str) -> None:
    try:
        import cryptography.hazmat.primitives.ciphers.aead  # noqa: F401  # whether it is there
    except ImportError as error:
        raise UnsupportedError(
            f"{location} is sealed, which needs the package cryptography.", do="pip install 'holdfast[seal]'."
        ) from error
