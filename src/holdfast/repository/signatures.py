"""Signed checkpoints: who made a manifest, for whom it counts (Ed25519).

A signature lies beside its manifest and is there before it. It covers repository, run, the
checkpoint's full name, which holds the digest of all that it is, and its parent's, so that each
signed checkpoint vouches for the one that it descends from.

Signing and trusting are told by the environment, where agents and errands find it: `HOLDFAST_SIGNING_KEY`
(or ``_FILE``, ``_COMMAND``), and `HOLDFAST_SIGNED_BY`, one or more public keys.
"""

from __future__ import annotations

import os
import re
import secrets
from collections.abc import Collection
from typing import TYPE_CHECKING

from holdfast.domain.manifest import Manifest
from holdfast.domain.names import CheckpointId
from holdfast.errors import SignatureError, UnsupportedError, UsageError
from holdfast.repository import records
from holdfast.repository.keyring.given import given_texts
from holdfast.repository.records import SignatureRecord

if TYPE_CHECKING:
    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

    from holdfast.repository.run import Run

SIGNING_KEY = "HOLDFAST_SIGNING_KEY"
SIGNED_BY = "HOLDFAST_SIGNED_BY"
_PRIVATE = "holdfast-signing-key-1-"
_PUBLIC = "holdfast-public-key-1-"
_PURPOSE = "holdfast checkpoint 1"


def generate() -> tuple[str, str]:
    """A new key that signs, and its public half, as text."""
    private = _PRIVATE + secrets.token_hex(32)
    return private, public_half(private)


def public_half(private: str) -> str:
    return _public_text(_private_key(private))


def _public_text(private: Ed25519PrivateKey) -> str:
    return _PUBLIC + private.public_key().public_bytes_raw().hex()


def sign(run: Run, manifest: Manifest, checkpoint: CheckpointId, signature: bytes | None = None) -> None:
    """Sign a checkpoint that is about to be published, if a key is given; durable on return.

    Parameters
    ----------
    signature : bytes, optional
        One that it has already, to be put there instead.

    Raises
    ------
    UsageError
        What is given is no such key.
    """
    if signature is None:
        made = made_signature(_message(run, checkpoint, manifest.summary.parent))
        signature = records.encode(made) if made is not None else None
    if signature is not None:
        run.storage.put(run.layout.signature(checkpoint), [signature])


def made_signature(message: bytes) -> SignatureRecord | None:
    """By the key that is given; None without one."""
    key = signing_key()
    if key is None:
        return None
    public = key.public_key().public_bytes_raw()
    return SignatureRecord(public.hex(), key.sign(message).hex())


def signing_key() -> Ed25519PrivateKey | None:
    """The key that signs; None where none is given."""
    text = next(given_texts(SIGNING_KEY, os.environ), None)
    return _private_key(text) if text is not None else None


def check_given() -> None:
    """Refuse keys that are none before a run relies on them, or that would make it lose its own saves.

    Raises
    ------
    UsageError
    """
    key, trusted = signing_key(), trusted_signers()
    if trusted and (key is None or _public_text(key) not in trusted):
        raise UsageError(
            "Signatures are required, but what is written here would have none that counts: "
            "the next launch could not go on from it.",
            do=f"Give the key that signs in {SIGNING_KEY}_FILE, and its public half in {SIGNED_BY}.",
        )


def signer(run: Run, manifest: Manifest, checkpoint: CheckpointId) -> str | None:
    """Public key of who signed it; None without a signature that is right."""
    record = records.read_or_none(run.storage, run.layout.signature(checkpoint), SignatureRecord)
    return author(record, _message(run, checkpoint, manifest.summary.parent)) if record is not None else None


def author(record: SignatureRecord, message: bytes) -> str | None:
    """Public key of who signed this message; None if the signature is not right."""
    return _PUBLIC + record.public if _is_right(record, message) else None


def own_signer() -> frozenset[str]:
    """Public half of the key that is given; empty without one."""
    key = signing_key()
    return frozenset() if key is None else frozenset({_public_text(key)})


def trusted_signers() -> frozenset[str]:
    """Public keys by one of which checkpoints have to be signed; empty if they need not be."""
    return parse_public(os.environ.get(SIGNED_BY, ""))


def trusted_manifest(run: Run, checkpoint: CheckpointId) -> Manifest:
    """Read and verify a manifest whose contents will be used; signed, where that is required.

    Raises
    ------
    SignatureError
        By nobody who is trusted.
    DamagedError, NotFoundError, FormatError
        As `Run.manifest`.
    """
    manifest = run.manifest(checkpoint)
    if trusted := trusted_signers():
        require(run, manifest, checkpoint, trusted)
    return manifest


def parse_public(text: str) -> frozenset[str]:
    """Public keys, separated by commas or white space.

    Raises
    ------
    UsageError
        One of them is none.
    """
    words = frozenset(text.replace(",", " ").split())
    for word in words:
        if not re.fullmatch(_PUBLIC + "[0-9a-f]{64}", word):
            raise UsageError(
                f"{word[:100]!r} is no public key.", do=f"It has to be {_PUBLIC!r} and 64 hexadecimal digits."
            )
    return words


def require(run: Run, manifest: Manifest, checkpoint: CheckpointId, trusted: Collection[str]) -> None:
    """Refuse a checkpoint that none of the trusted signed.

    Raises
    ------
    SignatureError
    """
    found = signer(run, manifest, checkpoint)
    if found in trusted:
        return
    raise SignatureError(
        f"{run.name}@{checkpoint.step} {told_of(found)}.", do=f"Use another one, or correct {SIGNED_BY}."
    )


def told_of(found: str | None) -> str:
    """In words, who signed what nobody trusted has."""
    return "is not signed" if found is None else f"is signed by {found}, which is not trusted here"


def carried(source: Run, checkpoint: CheckpointId, run: Run, new: CheckpointId) -> bytes | None:
    """The signature of a manifest that is taken over as it is; None where it does not count there."""
    same = (source.repository.id, source.name, checkpoint) == (run.repository.id, run.name, new)
    record = records.read_or_none(source.storage, source.layout.signature(checkpoint), SignatureRecord)
    return records.encode(record) if same and record is not None else None


def renew(source: Run, checkpoint: CheckpointId, run: Run) -> bool:
    """Sign a checkpoint that is taken over under another run's name; whether that was not needed, or done.

    Only what is signed by the key that is given, or by who is trusted.
    """
    if source.storage.stat(source.layout.signature(checkpoint)) is None:
        return True
    own = own_signer()
    manifest = source.manifest(checkpoint)
    if not own or signer(source, manifest, checkpoint) not in trusted_signers() | own:
        return False
    sign(run, manifest, checkpoint)
    return True


def _message(run: Run, checkpoint: CheckpointId, parent: str | None) -> bytes:
    return "\0".join((_PURPOSE, run.repository.id, run.name, str(checkpoint), parent or "")).encode()


def _is_right(record: SignatureRecord, message: bytes) -> bool:
    _need_cryptography()
    from cryptography.exceptions import InvalidSignature
    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey

    try:
        public = Ed25519PublicKey.from_public_bytes(bytes.fromhex(record.public))
        public.verify(bytes.fromhex(record.signature), message)
    except (ValueError, InvalidSignature):
        return False
    return record.public == public.public_bytes_raw().hex()


def _private_key(text: str) -> Ed25519PrivateKey:
    _need_cryptography()
    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

    if not re.fullmatch(_PRIVATE + "[0-9a-f]{64}", text):
        raise UsageError(
            "What is given as signing key is none.", do="'holdfast key generate FILE --signing' makes one."
        )
    return Ed25519PrivateKey.from_private_bytes(bytes.fromhex(text.removeprefix(_PRIVATE)))


def _need_cryptography() -> None:
    try:
        import cryptography.hazmat.primitives.asymmetric.ed25519  # noqa: F401  # whether it is there
    except ImportError as error:
        raise UnsupportedError(
            "Signatures need the package cryptography.", do="pip install 'holdfast[seal]'."
        ) from error
