"""What every measurement here shares: a quiet start, cold caches, durability, memory, facts."""

from __future__ import annotations

import os
import platform
import sys
import time
from collections.abc import Callable, Iterable
from contextlib import suppress
from importlib import metadata
from pathlib import Path

# A file system that discards does so after the commit that frees the blocks of deleted files.
DISCARD_SECONDS = 0.5
PACKAGES = (
    *("holdfast", "torch", "paddlepaddle", "safetensors", "numpy", "blake3", "msgspec"),
    *("lightning", "transformers", "accelerate", "jax", "orbax-checkpoint", "tensorstore", "zipnn"),
    *("obstore", "boto3", "moto"),
)


def seconds(action: Callable[[], object]) -> float:
    started = time.perf_counter()
    action()
    return time.perf_counter() - started


def settle(files: Iterable[Path] = ()) -> None:
    """Write out what earlier work left dirty, and forget what is cached of these files."""
    os.sync()
    time.sleep(DISCARD_SECONDS)
    for file in files:
        forget(file)


def forget_everything() -> None:
    """Drop the whole page cache, which only root may; programs start cold as well."""
    os.sync()
    with suppress(OSError):
        Path("/proc/sys/vm/drop_caches").write_text("3")


def forget(file: Path) -> None:
    descriptor = os.open(file, os.O_RDONLY)
    try:
        os.posix_fadvise(descriptor, 0, 0, os.POSIX_FADV_DONTNEED)
    finally:
        os.close(descriptor)


def files_below(path: Path) -> list[Path]:
    return [path] if path.is_file() else sorted(p for p in path.rglob("*") if p.is_file())


def make_durable(path: Path) -> None:
    """fsync a file, or every file and folder below a folder, and the folder that holds it."""
    below = [path, *path.rglob("*")] if path.is_dir() else [path]
    for item in [*below, path.parent]:
        descriptor = os.open(item, os.O_RDONLY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)


def memory_bytes(field: str) -> int:
    """``VmRSS`` or ``VmHWM`` of this process."""
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith(f"{field}:"):
            return int(line.split()[1]) * 1024
    raise LookupError(field)


def extra_memory_bytes(action: Callable[[], object]) -> int:
    """How far the process grows above what it is now, at the worst moment of ``action``."""
    Path("/proc/self/clear_refs").write_text("5")  # resets VmHWM
    before = memory_bytes("VmRSS")
    action()
    return max(0, memory_bytes("VmHWM") - before)


def facts(folder: Path) -> dict[str, object]:
    """Of the machine and its software."""
    return {
        "cpu": _cpu(),
        "cores": len(os.sched_getaffinity(0)),
        "memory_bytes": os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES"),
        "kernel": platform.release(),
        "file_system": _file_system(folder),
        "root": os.geteuid() == 0,  # who is not cannot drop the page cache before listings
        "python": platform.python_version(),
        "versions": _versions(*PACKAGES),
        "load_average": os.getloadavg(),
        "when": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()),
        "command": " ".join(["python", f"benchmarks/{Path(sys.argv[0]).name}", *sys.argv[1:]]),
    }


def _cpu() -> str:
    for line in Path("/proc/cpuinfo").read_text().splitlines():
        if line.startswith("model name"):
            return line.partition(":")[2].strip()
    return platform.machine()


def _file_system(folder: Path) -> str:
    """Kind of the file system that holds ``folder``: the longest mount point above it."""
    mounts = [line.split()[1:3] for line in Path("/proc/mounts").read_text().splitlines()]
    above = [(point, kind) for point, kind in mounts if folder.resolve().is_relative_to(point)]
    return max(above, key=lambda m: len(m[0]), default=("", "unknown"))[1]


def _versions(*names: str) -> dict[str, str]:
    found = {}
    for name in names:
        try:
            found[name] = metadata.version(name)
        except metadata.PackageNotFoundError:
            continue
    return found
