"""One way of storing in one process: python storing_store.py WAY TRAJECTORY RESTORES FOLDER RESULT.json

Every checkpoint of the trajectory is stored after the one before it; then the newest and the
oldest are restored from cold files and compared with the trajectory, bit for bit.
"""

from __future__ import annotations

import importlib
import json
import resource
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from measure import files_below, seconds, settle
from storing_trajectory import Trajectory
from storing_way import Way

COMPACTIONS = 5
BLOCK_BYTES = 512
"""What ``st_blocks`` counts in."""
WAYS = {
    "torch.save": "storing_way:TorchSave",
    "torch.save, zstd -3": "storing_way:TorchSaveZstd",
    "DCP": "storing_way:Dcp",
    "Orbax": "storing_orbax:Orbax",
    "zipnn": "storing_way:ZipNN",
    "safetensors in restic": "storing_backups:Restic",
    "safetensors in borg": "storing_backups:Borg",
    "holdfast": "storing_holdfast:Holdfast",
    "holdfast, compact": "storing_holdfast:Compacted",
    "holdfast, thin, compact": "storing_holdfast:Thinned",
}


class Cost(NamedTuple):
    """Of one action."""

    seconds: float
    cpu_seconds: float


class WrongBitsError(Exception):
    """A way gave back other bits than it was given."""


def store(name: str, trajectory: Trajectory, folder: Path, repeats: int) -> dict[str, Any]:
    stored, scratch = folder / "stored", folder / "scratch"
    stored.mkdir()
    scratch.mkdir()
    live = trajectory.live()
    way = _class(name)(stored, scratch, trajectory.kinds, live)
    sizes, saves, compactions = [], [], []
    for number in range(1, trajectory.count + 1):
        trajectory.read(number, live)
        saves.append(cost(lambda number=number: way.save(number)))
        if way.compacts and is_time_to_compact(number, trajectory.count):
            compactions.append(cost(way.compact))
        sizes.append(disk_bytes(stored))
    way.close()
    return {
        "stored_bytes": sizes,
        "save_seconds": [one.seconds for one in saves],
        "save_cpu_seconds": [one.cpu_seconds for one in saves],
        "compact_seconds": [one.seconds for one in compactions],
        "compact_cpu_seconds": [one.cpu_seconds for one in compactions],
        "restore_newest_seconds": restores(way, trajectory, trajectory.count, repeats),
        "restore_oldest_seconds": restores(way, trajectory, 1, repeats, way.oldest_holds),
    }


def is_time_to_compact(number: int, count: int) -> bool:
    """After the first, which has none before it, then evenly spread, at last after the last one."""
    return number == 1 or number * COMPACTIONS // count > (number - 1) * COMPACTIONS // count


def cost(action: Callable[[], object]) -> Cost:
    """Of this process and of those that it started and that have ended."""
    before = _cpu_seconds()
    return Cost(seconds(action), _cpu_seconds() - before)


def _cpu_seconds() -> float:
    used = [resource.getrusage(who) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)]
    return sum(one.ru_utime + one.ru_stime for one in used)


def disk_bytes(folder: Path) -> int:
    return sum(file.stat().st_blocks * BLOCK_BYTES for file in files_below(folder))


def restores(way: Way, trajectory: Trajectory, number: int, repeats: int, holds: str = "") -> list[float]:
    """Seconds of each restore of a checkpoint from cold files.

    Raises
    ------
    WrongBitsError
        It is not what was stored.
    """
    times = []
    for _ in range(repeats):
        for array in way.live.values():
            array[:] = np.uint8(0xA5)
        settle(files_below(way.folder))
        times.append(seconds(lambda: way.restore(number)))
        if wrong := trajectory.differing(number, way.live, holds):
            raise WrongBitsError(
                f"checkpoint {number} came back with other bits in {len(wrong)} tensors, {wrong[0]}"
            )
    return times


def _class(name: str) -> type[Way]:
    module, _, attribute = WAYS[name].partition(":")
    found: type[Way] = getattr(importlib.import_module(module), attribute)
    return found


def main() -> None:
    name, trajectory, repeats, folder, result = sys.argv[1:6]
    started = time.monotonic()
    found = store(name, Trajectory(Path(trajectory)), Path(folder), int(repeats))
    Path(result).write_text(json.dumps(found | {"seconds": time.monotonic() - started}))


if __name__ == "__main__":
    main()
