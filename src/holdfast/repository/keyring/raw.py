"""A key of 32 random bytes, written as text: ``holdfast-key-1-`` and 64 hexadecimal digits."""

from __future__ import annotations

import re
import secrets

from holdfast.errors import UsageError
from holdfast.repository.keyring.base import SALT_BYTES, Wrapping, decrypted, encrypted, unhex
from holdfast.storage.frames import SECRET_BYTES, derived

PREFIX = "holdfast-key-1-"
_PURPOSE = b"holdfast key 1"


class RawKey:
    """A key that a computer made."""

    kind = "key"

    def __init__(self, text: str) -> None:
        if not re.fullmatch(re.escape(PREFIX) + "[0-9a-f]{64}", text):
            raise UsageError(
                f"A key that begins with {PREFIX!r} is not whole.",
                do="Give all of it: 64 hexadecimal digits follow.",
            )
        self._key = bytes.fromhex(text.removeprefix(PREFIX))

    def wrap(self, secret: bytes, context: bytes) -> Wrapping:
        salt = secrets.token_bytes(SALT_BYTES)
        return Wrapping(self.kind, salt.hex(), encrypted(self._derived(salt), secret, context))

    def unwrap(self, wrapping: Wrapping, context: bytes) -> bytes | None:
        return decrypted(self._derived(unhex(wrapping.salt)), wrapping, context)

    def _derived(self, salt: bytes) -> bytes:
        return derived(self._key, salt, _PURPOSE)


def generate() -> str:
    """A new one, as text."""
    return PREFIX + secrets.token_hex(SECRET_BYTES)
