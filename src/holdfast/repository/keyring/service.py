"""A key that a key service (KMS) holds: a command of the user's wraps and unwraps a key made here.

It is run as ``COMMAND wrap`` and ``COMMAND unwrap``, gets base64 on standard input and answers in base64
on standard output. The command comes from the environment, never from a repository.
"""

from __future__ import annotations

import base64
import secrets

from holdfast.errors import UsageError
from holdfast.repository.keyring.base import Wrapping, decrypted, encrypted, unhex
from holdfast.repository.keyring.commands import answer_of
from holdfast.storage.frames import SECRET_BYTES


class ServiceKey:
    """A key that never leaves its service."""

    kind = "service"

    def __init__(self, command: str) -> None:
        self._command = command

    def wrap(self, secret: bytes, context: bytes) -> Wrapping:
        key = secrets.token_bytes(SECRET_BYTES)
        blob = self._asked("wrap", key)
        return Wrapping(self.kind, "", encrypted(key, secret, context), blob=blob.hex())

    def unwrap(self, wrapping: Wrapping, context: bytes) -> bytes | None:
        key = self._asked("unwrap", unhex(wrapping.blob))
        return decrypted(key, wrapping, context) if len(key) == SECRET_BYTES else None

    def _asked(self, verb: str, data: bytes) -> bytes:
        answer = answer_of(self._command, verb, given=base64.b64encode(data))
        try:
            return base64.b64decode(answer, validate=True)
        except ValueError:
            raise UsageError(
                f"The command of the key service did not answer '{verb}' in base64.",
                do="See that it prints nothing else.",
            ) from None
