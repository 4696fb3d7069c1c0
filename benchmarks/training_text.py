"""What the models learn: the bytes of Python's own standard library."""

from __future__ import annotations

import sysconfig
from pathlib import Path

TEXT_BYTES = 8_000_000
VALUES = 256
"""That a byte can have."""


def text(pattern: str = "*.py") -> bytearray:
    """The standard library's sources, one after the other."""
    read = bytearray()
    for source in sorted(Path(sysconfig.get_paths()["stdlib"]).glob(pattern)):
        read += source.read_bytes()
        if len(read) >= TEXT_BYTES:
            break
    return read
