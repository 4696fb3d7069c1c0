"""Unseals a repository by docs/format.md alone, with a key of 32 bytes; nothing here comes from Holdfast."""

import json
from pathlib import Path

from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.kdf.hkdf import HKDF

FRAME = 65536


def _hkdf(key: bytes, salt: bytes, info: bytes) -> bytes:
    return HKDF(SHA256(), 32, salt, info).derive(key)


def secret_of(root: Path, key: bytes) -> bytes:
    config = json.loads((root / "holdfast.json").read_text())["record"]
    assert config["format"] == 2
    assert config["sealed"]["scheme"] == "aes-256-gcm-64k"
    for path in (root / "keys").iterdir():
        entry = json.loads(path.read_text())["record"]
        if entry["secret"] != config["sealed"]["secret"] or entry["wrapping"]["kind"] != "key":
            continue
        wrapped = bytes.fromhex(entry["wrapping"]["wrapped"])
        bound = "\0".join(("holdfast key 1", config["id"], entry["secret"], entry["id"])).encode()
        under = _hkdf(key, bytes.fromhex(entry["wrapping"]["salt"]), b"holdfast key 1")
        secret = AESGCM(under).decrypt(wrapped[:12], wrapped[12:], bound)
        assert _hkdf(secret, b"", b"holdfast fingerprint 1")[:8].hex() == entry["secret"]
        return secret
    raise LookupError("no key")


def unseal(root: Path, key: bytes, target: Path) -> None:
    """Copy a sealed repository into an open one."""
    secret = secret_of(root, key)
    repository_id = json.loads((root / "holdfast.json").read_text())["record"]["id"]
    for path in root.rglob("*"):
        name = path.relative_to(root).as_posix()
        if path.is_dir() or name.endswith(".lock") or name.startswith("keys/"):
            continue
        data = path.read_bytes()
        if name != "holdfast.json":
            data = _opened(data, secret, f"holdfast object 1\0{repository_id}\0{name}".encode())
        (target / name).parent.mkdir(parents=True, exist_ok=True)
        (target / name).write_bytes(data)


def _opened(data: bytes, secret: bytes, info: bytes) -> bytes:
    assert data[:8] == b"HFSEAL\x00\x01"
    cipher = AESGCM(_hkdf(secret, data[8:32], info))
    pieces = [data[at : at + FRAME] for at in range(0, len(data), FRAME)]
    pieces[0] = pieces[0][32:]
    last = len(pieces) - 1
    return b"".join(
        cipher.decrypt(number.to_bytes(11, "big") + bytes([number == last]), piece, None)
        for number, piece in enumerate(pieces)
    )
