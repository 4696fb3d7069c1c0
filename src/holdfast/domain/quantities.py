"""Numbers of bytes as people write them."""

from __future__ import annotations

import re

_BYTES = re.compile(r"(\d+(?:\.\d+)?)\s*([kKMGT]i?)?B")
_UNITS = {"": 1, "k": 10**3, "K": 10**3, "M": 10**6, "G": 10**9, "T": 10**12}
_BINARY = {"ki": 2**10, "Ki": 2**10, "Mi": 2**20, "Gi": 2**30, "Ti": 2**40}


def parse_bytes(text: str) -> int | None:
    """Read ``20MB``, ``1.5 GiB``; None if it is no such text."""
    found = _BYTES.fullmatch(text.strip())
    return int(float(found[1]) * (_UNITS | _BINARY)[found[2] or ""]) if found else None
