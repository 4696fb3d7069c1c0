"""How much memory this process may still take: of the machine, and of its control group."""

from __future__ import annotations

from contextlib import suppress
from pathlib import Path

import psutil

SPARE_BYTES = 256 * 1024 * 1024
_GROUPS = (  # limit and use: control groups of version 2, then 1, as a container sees its own
    ("/sys/fs/cgroup/memory.max", "/sys/fs/cgroup/memory.current"),
    ("/sys/fs/cgroup/memory/memory.limit_in_bytes", "/sys/fs/cgroup/memory/memory.usage_in_bytes"),
)


def available_bytes() -> int:
    """Memory that can be taken without pushing anything out; the smaller of machine and group."""
    rooms = [psutil.virtual_memory().available]
    for limit, use in _GROUPS:
        with suppress(OSError, ValueError):  # no such group, or its limit is the word 'max'
            rooms.append(int(Path(limit).read_text()) - int(Path(use).read_text()))
    return max(min(rooms), 0)
