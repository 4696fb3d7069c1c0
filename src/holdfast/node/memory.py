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
_KILLS = ("/sys/fs/cgroup/memory.events", "/sys/fs/cgroup/memory/memory.oom_control", "/proc/vmstat")


def kills_for_want() -> int:
    """How often the kernel has killed for want of memory, in this control group if that can be seen."""
    for place in (_own_events(), *_KILLS):
        with suppress(OSError, ValueError, KeyError):
            rows = (line.split() for line in Path(place).read_text().splitlines())
            return int({row[0]: row[1] for row in rows if len(row) == 2}["oom_kill"])
    return 0


def _own_events() -> str:
    """Of the group that this process is in, as the whole machine sees it."""
    try:
        line = next(
            row for row in Path("/proc/self/cgroup").read_text().splitlines() if row.startswith("0::")
        )
    except (OSError, StopIteration):
        return ""
    return f"/sys/fs/cgroup{line.removeprefix('0::').rstrip('/')}/memory.events"


def available_bytes() -> int:
    """Memory that can be taken without pushing anything out; the smaller of machine and group."""
    rooms = [psutil.virtual_memory().available]
    for limit, use in _GROUPS:
        with suppress(OSError, ValueError):  # no such group, or its limit is the word 'max'
            rooms.append(int(Path(limit).read_text()) - int(Path(use).read_text()))
    return max(min(rooms), 0)
