"""Memory on the host as bytes, by its address."""

from __future__ import annotations

import ctypes
from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    import numpy.typing as npt


def bytes_at(address: int, size_bytes: int, owner: object) -> npt.NDArray[np.uint8]:
    """The bytes at an address, not copied; the array keeps their owner alive."""
    if not size_bytes:
        return np.empty(0, np.uint8)
    memory: Any = (ctypes.c_ubyte * size_bytes).from_address(address)
    memory.owner = owner  # the array's base, so it lives as long
    return np.frombuffer(memory, np.uint8)
