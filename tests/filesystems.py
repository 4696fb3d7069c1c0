"""Real file systems for tests: small loop images, mounted and always unmounted again."""

from __future__ import annotations

import fcntl
import os
import struct
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

_SHUTDOWN_IOCTL = 0x8004587D
_MKFS = {
    # No blocks kept for root, no discard, and no lazy work in the background: quiet at once.
    "ext4": ["mkfs.ext4", "-q", "-F", "-m", "0", "-E", "lazy_itable_init=0,lazy_journal_init=0,nodiscard"],
    # Below 300 MB mkfs.xfs refuses unless told that it is a test.
    "xfs": ["mkfs.xfs", "-q", "-f", "-K", "--unsupported"],
}
SMALLEST_BYTES = {"ext4": 4 << 20, "xfs": 40 << 20}

# How the file system goes down: whether its journal is flushed first, as a disk cache may have been.
FLUSH_ALL, FLUSH_LOG, FLUSH_NOTHING = 0, 1, 2


@dataclass
class Image:
    """A file system in a file, mounted at ``path``."""

    kind: str
    device: str
    path: Path
    options: list[str] = field(default_factory=list)
    is_mounted: bool = False  # asking the system fails on one that was shut down

    def mount(self) -> None:
        options = ["-o", ",".join(self.options)] if self.options else []
        _run("mount", "-t", self.kind, *options, self.device, str(self.path))
        self.is_mounted = True

    def unmount(self) -> None:
        _run("umount", str(self.path))
        self.is_mounted = False

    def remount(self, option: str) -> None:
        """``ro`` or ``rw``."""
        _run("mount", "-o", f"remount,{option}", str(self.path))

    def lose_power(self, how: int = FLUSH_NOTHING) -> None:
        """Shut the file system down at once, then mount what is on its disk."""
        self.shut_down(how)
        self.unmount()
        self.mount()

    def shut_down(self, how: int = FLUSH_NOTHING) -> None:
        """From now on every call on it fails with EIO."""
        descriptor = os.open(self.path, os.O_RDONLY | os.O_DIRECTORY)
        try:
            fcntl.ioctl(descriptor, _SHUTDOWN_IOCTL, struct.pack("I", how))
        finally:
            os.close(descriptor)


@contextmanager
def mounted(kind: str, size_bytes: int, folder: Path) -> Iterator[Image]:
    """Make and mount a file system of that kind and size, with its image below ``folder``."""
    backing, path = folder / f"{kind}.img", folder / kind
    path.mkdir()
    with backing.open("wb") as image:
        image.truncate(size_bytes)
    # Formatted as a file: the loop device is only held while it is mounted.
    _run(*_MKFS[kind], str(backing), environment={"TEST_DIR": "1", "TEST_DEV": "1", "QA_CHECK_FS": "1"})
    device = _run("losetup", "-f", "--show", str(backing)).strip()
    try:
        made = Image(kind, device, path)
        made.mount()
        try:
            yield made
        finally:
            if made.is_mounted:
                made.unmount()
    finally:
        _run("losetup", "-d", device)
        backing.unlink()


def _run(*command: str, environment: dict[str, str] | None = None) -> str:
    done = subprocess.run(
        command, capture_output=True, text=True, check=False, env={**os.environ, **(environment or {})}
    )
    if done.returncode:
        raise RuntimeError(f"{' '.join(command)} ended with {done.returncode}: {done.stderr.strip()}")
    return done.stdout
