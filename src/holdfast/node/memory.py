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
_COUNTERS = ("/sys/fs/cgroup/memory.events", "/sys/fs/cgroup/memory/memory.oom_control", "/proc/vmstat")


def kills_for_want() -> int:
    """What counters of the kernel say together of kills for want of memory: a hint, if it grows.

    Which of them there are, and count this process's control group, depends on the system.
    """
    return sum(map(_kills, {*_own_counters(), *_COUNTERS}))


def _kills(counter: str) -> int:
    with suppress(OSError, ValueError, KeyError):
        rows = (line.split() for line in Path(counter).read_text().splitlines())
        return int({row[0]: row[1] for row in rows if len(row) == 2}["oom_kill"])
    return 0


def _own_counters() -> list[str]:
    """Of the groups that this process is in, as the whole machine sees them, of version 2 and 1."""
    with suppress(OSError):
        groups = [line.split(":", 2) for line in Path("/proc/self/cgroup").read_text().splitlines()]
        paths = {kinds: path.rstrip("/") for _, kinds, path in groups}
        found = [f"/sys/fs/cgroup{paths['']}/memory.events"] if "" in paths else []
        v1 = paths.get("memory")
        return found + ([f"/sys/fs/cgroup/memory{v1}/memory.oom_control"] if v1 is not None else [])
    return []


def available_bytes() -> int:
    """Memory that can be taken without pushing anything out; the smaller of machine and group."""
    rooms = [psutil.virtual_memory().available]
    for limit, use in _GROUPS:
        with suppress(OSError, ValueError):  # no such group, or its limit is the word 'max'
            rooms.append(int(Path(limit).read_text()) - int(Path(use).read_text()))
    return max(min(rooms), 0)
