"""A file system of its own, in a file, that can lose power; it takes root."""

from __future__ import annotations

import fcntl
import os
import shutil
import struct
import subprocess
from pathlib import Path

from holdfast.drill.faults.held import Afterwards
from holdfast.errors import HoldfastError, UnsupportedError

_SIZE_BYTES = 8 << 30
"""Of the file, which takes up only what is written to it."""
_SHUTDOWN_IOCTL = 0x8004587D
_FLUSH_NOTHING = 2
_QUIET = ("-q", "-F", "-m", "0", "-E", "lazy_itable_init=0,lazy_journal_init=0,nodiscard")


class Disk:
    """Mounted at a folder, which is made; also unmounted if this process dies.

    Raises
    ------
    HoldfastError
        It cannot be made or mounted.
    """

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._image = folder.with_name(f"{folder.name}.img")
        folder.mkdir()
        with self._image.open("wb") as file:
            file.truncate(_SIZE_BYTES)
        _run("mkfs.ext4", *_QUIET, str(self._image))
        self._mount()
        self._unmounted = Afterwards("umount --lazy", [folder.name], folder.parent)
        (folder / "lost+found").rmdir()

    def _mount(self) -> None:
        _run("mount", "-o", "loop", str(self._image), str(self._folder))

    def shut_down(self) -> None:
        """Drop what is not on it, and answer nothing more."""
        descriptor = os.open(self._folder, os.O_RDONLY | os.O_DIRECTORY)
        try:
            fcntl.ioctl(descriptor, _SHUTDOWN_IOCTL, struct.pack("I", _FLUSH_NOTHING))
        finally:
            os.close(descriptor)

    def power_up(self) -> None:
        """Mount what is on it; by now nobody uses it."""
        _run("umount", str(self._folder))
        self._mount()

    def close(self) -> None:
        """Unmount it, and remove it."""
        self._unmounted.now()
        self._image.unlink()


def check() -> None:
    """Refuse where no file system can be made and mounted.

    Raises
    ------
    UnsupportedError
    """
    if os.geteuid() != 0 or shutil.which("mkfs.ext4") is None:
        raise UnsupportedError(
            "The fault 'power' needs a file system of its own: root, and mkfs.ext4.",
            do="Leave it out; 'machine' is the same without dropping what was not synced.",
        )


def _run(*command: str) -> None:
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        raise HoldfastError(
            f"{command[0]} ended with {done.returncode}: {done.stderr.strip()}.",
            do="A container may not mount anything: drill 'machine' instead.",
        )
