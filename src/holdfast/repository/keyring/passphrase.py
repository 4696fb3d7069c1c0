"""A passphrase: what people can remember, made expensive to guess (scrypt)."""

from __future__ import annotations

import secrets
from functools import lru_cache

from holdfast.errors import UsageError
from holdfast.repository.keyring.base import SALT_BYTES, Wrapping, decrypted, encrypted, unhex
from holdfast.storage.frames import SECRET_BYTES

LEAST_CHARACTERS = 8
COST = (1 << 17, 8, 1)
"""128 MiB and a third of a second, once per process."""
_MOST_BYTES = 1 << 29
_MOST_PARALLEL = 4


class Passphrase:
    """A key that a person made."""

    kind = "passphrase"

    def __init__(self, text: str) -> None:
        self._text = text.encode()

    def wrap(self, secret: bytes, context: bytes) -> Wrapping:
        """Encrypt a secret.

        Raises
        ------
        UsageError
            It is so short that everybody could try them all.
        """
        if len(self._text.decode()) < LEAST_CHARACTERS:
            raise UsageError(
                f"This passphrase has fewer than {LEAST_CHARACTERS} characters.",
                do="Choose a longer one, or let 'holdfast key generate FILE' make a key.",
            )
        salt = secrets.token_bytes(SALT_BYTES)
        wrapped = encrypted(_derived(self._text, salt, COST), secret, context)
        return Wrapping(self.kind, salt.hex(), wrapped, cost=COST)

    def unwrap(self, wrapping: Wrapping, context: bytes) -> bytes | None:
        if wrapping.cost is None or not _is_affordable(wrapping.cost):
            return None
        return decrypted(_derived(self._text, unhex(wrapping.salt), wrapping.cost), wrapping, context)


def _is_affordable(cost: tuple[int, int, int]) -> bool:
    """Whether a recorded cost can be paid: a forged one could ask for all memory, or for years."""
    rounds, block, parallel = cost
    is_power = rounds > 1 and rounds & (rounds - 1) == 0
    return is_power and block >= 1 and 128 * rounds * block <= _MOST_BYTES and 1 <= parallel <= _MOST_PARALLEL


@lru_cache(maxsize=16)
def _derived(text: bytes, salt: bytes, cost: tuple[int, int, int]) -> bytes:
    """Remembered: a script may open its repository at every save."""
    from cryptography.hazmat.primitives.kdf.scrypt import Scrypt

    rounds, block, parallel = cost
    return Scrypt(salt, SECRET_BYTES, rounds, block, parallel).derive(text)
