"""The cyclic garbage collector, out of the way of a save or restore."""

from __future__ import annotations

import gc
from collections.abc import Iterator
from contextlib import contextmanager


@contextmanager
def collector_paused() -> Iterator[None]:
    """Keep Python's cyclic garbage collector from running meanwhile.

    A save makes tens of thousands of small objects and hardly a cycle, but each full collection
    that they set off walks every object of the process: 0.1 to 0.2 s with PyTorch imported,
    several times per save (docs/design/006-speed-of-save-and-load.md).
    """
    was_enabled = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if was_enabled:
            gc.enable()
