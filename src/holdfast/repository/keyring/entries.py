"""What rests of each key beside the data: `keys/ID.json`, one wrapping of the repository's secret.

It is there twice, as `keys/ID.spare.json` too: nothing else could bring back what one flipped bit took.

Adding a key or removing one touches no other object, so a passphrase changes without rewriting data.
An entry of another secret (of a copy of this repository, of a creation that lost a race) counts for
nothing.
"""

from __future__ import annotations

import re
import secrets
import time
from collections.abc import Iterator, Sequence

import msgspec

from holdfast.errors import BusyError, NotFoundError, SealedError, UsageError
from holdfast.repository import layout, records
from holdfast.repository.keyring.base import GivenKey, Wrapping
from holdfast.repository.records import RepositoryConfig, Sealing
from holdfast.storage.base import Storage
from holdfast.storage.frames import SECRET_BYTES, derived

SCHEME = "aes-256-gcm-64k"
_ID = re.compile(r"[0-9a-f]{16}")
_MOST_LABEL = 200
LOCK_SECONDS = 30.0
_HOW = "Give it in HOLDFAST_KEY_FILE, HOLDFAST_KEY_COMMAND or HOLDFAST_KEY."


class KeyEntry(msgspec.Struct, frozen=True):
    """One key's entry.

    Attributes
    ----------
    id : str
        16 hexadecimal digits, as in its name.
    repository, secret : str
        Of which repository, and of which secret of it, as in `RepositoryConfig`.
    label : str
        What people call the key.
    """

    id: str
    repository: str
    secret: str
    label: str
    created_seconds: float
    wrapping: Wrapping

    @property
    def context(self) -> bytes:
        return _context(self.repository, self.secret, self.id)


def new_sealing() -> tuple[bytes, Sealing]:
    """A new secret, and what ``holdfast.json`` says of it."""
    secret = secrets.token_bytes(SECRET_BYTES)
    return secret, Sealing(SCHEME, fingerprint(secret))


def fingerprint(secret: bytes) -> str:
    """Tells secrets apart, and nothing of them."""
    return derived(secret, b"", b"holdfast fingerprint 1")[:8].hex()


def add(
    storage: Storage, config: RepositoryConfig, secret: bytes, key: GivenKey, label: str = ""
) -> KeyEntry:
    """Let another key open the repository; durable on return."""
    if len(label) > _MOST_LABEL or not label.isprintable():
        raise UsageError("This label is too long, or no plain text.", do="Use up to 200 characters.")
    key_id = secrets.token_hex(8)
    wrapping = key.wrap(secret, _context(config.id, fingerprint(secret), key_id))
    entry = KeyEntry(key_id, config.id, fingerprint(secret), label, time.time(), wrapping)
    put(storage, entry)
    return entry


def put(storage: Storage, entry: KeyEntry) -> None:
    """Write both of its files."""
    for key in layout.keys(entry.id):
        storage.put(key, [records.encode(entry)])


def discard(storage: Storage, key_id: str) -> None:
    """Delete both of its files."""
    for key in layout.keys(key_id):
        storage.delete(key)


def entries(storage: Storage, config: RepositoryConfig) -> list[KeyEntry]:
    """Those that can open the repository, the oldest first; unreadable ones are passed over."""
    wanted = config.sealed.secret if config.sealed is not None else None
    found = [e for e in every_entry(storage) if (e.repository, e.secret) == (config.id, wanted)]
    return sorted(found, key=lambda e: (e.created_seconds, e.id))


def every_entry(storage: Storage) -> Iterator[KeyEntry]:
    """All of which a file can be read, of whichever repository."""
    ids = {key.removeprefix(layout.KEYS).partition(".")[0] for key in storage.list(layout.KEYS)}
    for key_id in sorted(i for i in ids if _ID.fullmatch(i)):
        readable = (
            entry for key in layout.keys(key_id) if (entry := _read(storage, key, key_id)) is not None
        )
        if (found := next(readable, None)) is not None:
            yield found


def half_lost(storage: Storage) -> list[KeyEntry]:
    """Those of which one file cannot be read."""
    return [
        entry
        for entry in every_entry(storage)
        if any(_read(storage, key, entry.id) is None for key in layout.keys(entry.id))
    ]


def _read(storage: Storage, key: str, key_id: str) -> KeyEntry | None:
    entry = records.read_or_none(storage, key, KeyEntry)
    return entry if entry is not None and entry.id == key_id else None


def opened(storage: Storage, config: RepositoryConfig, keys: Sequence[GivenKey]) -> tuple[bytes, KeyEntry]:
    """The repository's secret, and the entry of the key that gave it.

    Raises
    ------
    SealedError
        No key was given, or none that opens it.
    """
    if not keys:
        raise SealedError(f"{storage.location} is sealed, and no key was given.", do=_HOW)
    found = entries(storage, config)
    for key in keys:
        for entry in found:
            secret = key.unwrap(entry.wrapping, entry.context) if key.kind == entry.wrapping.kind else None
            if secret is not None and fingerprint(secret) == entry.secret:
                return secret, entry
    if not found:
        raise SealedError(
            f"{storage.location} is sealed, and none of its {layout.KEYS} can be read.",
            do=f"Put its own {layout.KEYS} back from a copy: without one of them nothing opens it.",
        )
    raise SealedError(
        f"No key that was given opens {storage.location}.",
        do="Give another: 'holdfast key list' names those that do.",
    )


def remove(storage: Storage, config: RepositoryConfig, key_id: str) -> None:
    """Let a key open the repository no more.

    Raises
    ------
    NotFoundError
        There is no such key.
    UsageError
        It is the last one.
    BusyError
        Another process removes one.
    """
    with storage.lock("keys", shared=False, wait_seconds=LOCK_SECONDS) as held:
        if not held and storage.exclusive_locks:
            raise BusyError(f"Another process removes a key of {storage.location}.", do="Try again.")
        _remove(storage, config, key_id)


def _remove(storage: Storage, config: RepositoryConfig, key_id: str) -> None:
    found = {entry.id: entry for entry in entries(storage, config)}
    if key_id not in found:
        raise NotFoundError(
            f"There is no key {key_id} of {storage.location}.", do="'holdfast key list' names all."
        )
    if len(found) == 1:
        raise _last(storage, key_id)
    discard(storage, key_id)
    if not entries(storage, config):  # nothing locks an object store: the others went at the same moment
        put(storage, found[key_id])
        raise _last(storage, key_id)


def _last(storage: Storage, key_id: str) -> UsageError:
    return UsageError(
        f"{key_id} is the only key of {storage.location}: nothing would open it any more.",
        do="Add another one first.",
    )


def _context(repository: str, secret: str, key_id: str) -> bytes:
    return f"holdfast key 1\0{repository}\0{secret}\0{key_id}".encode()
