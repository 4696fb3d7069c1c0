"""The contract of every key that people give: it wraps a repository's secret, and unwraps it again.

A wrapping rests beside the data for everybody to read; without its key it tells nothing. Its context
(of which repository it is) is authenticated, so it opens nothing elsewhere.
"""

from __future__ import annotations

import secrets
from typing import Protocol

import msgspec

SALT_BYTES = 32
NONCE_BYTES = 12
_MOST_BLOB_BYTES = 16 * 1024


class Wrapping(msgspec.Struct, frozen=True, omit_defaults=True):
    """A secret under one key.

    Attributes
    ----------
    kind : str
        Of which kind the key is.
    salt : str
        Hexadecimal; of the derivation.
    wrapped : str
        Hexadecimal: nonce, encrypted secret, tag.
    cost : tuple[int, int, int] or None
        What deriving from a passphrase takes.
    blob : str
        Hexadecimal; what a key service made of a key of its own.
    """

    kind: str
    salt: str
    wrapped: str
    cost: tuple[int, int, int] | None = None
    blob: str = ""


class GivenKey(Protocol):
    """A key that somebody gave. It never shows itself: not in its `repr`, not in an error."""

    @property
    def kind(self) -> str:
        """``key``, ``passphrase`` or ``service``."""
        ...

    def wrap(self, secret: bytes, context: bytes) -> Wrapping:
        """Encrypt a secret."""
        ...

    def unwrap(self, wrapping: Wrapping, context: bytes) -> bytes | None:
        """The secret; None if it is not under this key, or of another context."""
        ...


def encrypted(key: bytes, secret: bytes, context: bytes) -> str:
    """A secret under a derived key."""
    from cryptography.hazmat.primitives.ciphers.aead import AESGCM

    nonce = secrets.token_bytes(NONCE_BYTES)
    return (nonce + AESGCM(key).encrypt(nonce, secret, context)).hex()


def decrypted(key: bytes, wrapping: Wrapping, context: bytes) -> bytes | None:
    """What `encrypted` was given; None under another key or context."""
    from cryptography.exceptions import InvalidTag
    from cryptography.hazmat.primitives.ciphers.aead import AESGCM

    data = unhex(wrapping.wrapped)
    try:
        return AESGCM(key).decrypt(data[:NONCE_BYTES], data[NONCE_BYTES:], context)
    except (InvalidTag, ValueError):
        return None


def unhex(text: str) -> bytes:
    """Bytes of a recorded text; none where it is too long or no such text."""
    try:
        return bytes.fromhex(text) if len(text) <= 2 * _MOST_BLOB_BYTES else b""
    except ValueError:
        return b""
