"""Memory that a thread uses again and again: fresh memory costs more than what is done in it."""

from __future__ import annotations

import threading
from functools import cache
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import numpy as np
    import numpy.typing as npt

    Bytes = npt.NDArray[np.uint8]

MOST_BYTES = 8 * 1024 * 1024
"""More than that is not kept."""
_SETTLING_BYTES = 24 * 1024 * 1024


class Scratch(threading.local):
    """One buffer per thread; valid until the same thread takes it again."""

    def __init__(self) -> None:
        self._held: Bytes | None = None

    def take(self, size_bytes: int) -> Bytes:
        """So many bytes, with whatever is in them."""
        import numpy as np

        if size_bytes > MOST_BYTES:
            return np.empty(size_bytes, np.uint8)
        if self._held is None or len(self._held) < size_bytes:
            settle_allocator()
            self._held = np.empty(size_bytes, np.uint8)
        return self._held[:size_bytes]


@cache
def settle_allocator() -> None:
    """Let malloc keep what is freed, as zstd's output is for every plane; once is enough for all threads.

    Until it has seen a block as large as this one go, glibc gives the top of its heap back to the system at
    every turn, and the page faults that follow cost as much as a codec.
    """
    import numpy as np

    np.empty(_SETTLING_BYTES, np.uint8)
