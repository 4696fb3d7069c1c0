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
_OF_GROUP_HERE = ("/sys/fs/cgroup/memory.events", "/sys/fs/cgroup/memory/memory.oom_control")
_OF_MACHINE = "/proc/vmstat"


class MemoryKills:
    """How often the kernel has killed for want of memory since now, in the control groups of processes.

    The counter of the whole machine, which counts strangers too, is asked only where no group has one.
    """

    def __init__(self) -> None:
        self._before: dict[str, int] = {}
        self._machine_before = _kills(_OF_MACHINE) or 0

    def follow(self, pid: int) -> None:
        """Count also in the groups that this process is in now."""
        for counter in _counters(pid):
            if counter not in self._before and (kills := _kills(counter)) is not None:
                self._before[counter] = kills

    def count(self) -> int:
        now = {counter: _kills(counter) for counter in self._before}
        known = [kills - self._before[counter] for counter, kills in now.items() if kills is not None]
        return sum(known) if known else (_kills(_OF_MACHINE) or 0) - self._machine_before


def _kills(counter: str) -> int | None:
    with suppress(OSError, ValueError, KeyError):
        rows = (line.split() for line in Path(counter).read_text().splitlines())
        return int({row[0]: row[1] for row in rows if len(row) == 2}["oom_kill"])
    return None


def _counters(pid: int) -> list[str]:
    """Where the counters of a process's groups may be, of version 2 and 1; as a container sees them too."""
    with suppress(OSError, ValueError):
        lines = Path(f"/proc/{pid}/cgroup").read_text().splitlines()
        paths = {kinds: path.rstrip("/") for _, kinds, path in (line.split(":", 2) for line in lines)}
        named = [f"/sys/fs/cgroup{paths['']}/memory.events"] if "" in paths else []
        if (v1 := paths.get("memory")) is not None:
            named.append(f"/sys/fs/cgroup/memory{v1}/memory.oom_control")
        there = [counter for counter in named if Path(counter).exists()]
        return there or list(_OF_GROUP_HERE)
    return []


def available_bytes() -> int:
    """Memory that can be taken without pushing anything out; the smaller of machine and group."""
    rooms = [psutil.virtual_memory().available]
    for limit, use in _GROUPS:
        with suppress(OSError, ValueError):  # no such group, or its limit is the word 'max'
            rooms.append(int(Path(limit).read_text()) - int(Path(use).read_text()))
    return max(min(rooms), 0)
