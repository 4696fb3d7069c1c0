"""Places that fail, and bytes that rot."""

from __future__ import annotations

import errno
import os
import resource
import signal
from contextlib import suppress
from pathlib import Path

from holdfast.drill.faults.base import Fault, InBackground, Scene, signal_all, wait_gone
from holdfast.drill.faults.held import Afterwards, held
from holdfast.errors import HoldfastError
from holdfast.repository import layout
from holdfast.repository.index import Copy
from holdfast.repository.repository import Repository

_LOOKED_AT = 5


class Damage(Fault):
    """The training dies, and before it is back its newest checkpoint is damaged."""

    copies_only = "it damages a checkpoint"

    def strike(self, scene: Scene) -> None:
        with held(scene.supervisor):  # it would start the training again
            agents = scene.agents()
            scene.kill_launch()
            signal_all(agents, signal.SIGKILL)  # or it would give back from memory what is damaged on disk
            wait_gone([scene.trainer, *agents])
            copy = newest_copy(scene.repository)
            self.damage(scene.place / layout.pack(copy.pack), copy)

    def damage(self, pack: Path, copy: Copy) -> None:
        raise NotImplementedError


class BitRot(Damage):
    """One bit of the newest checkpoint's tensors turns over."""

    name = "bit-rot"
    meaning = "SIGKILL, and one bit of the newest checkpoint turns over"

    def damage(self, pack: Path, copy: Copy) -> None:
        at = copy.entry.offset + copy.entry.stored_bytes // 2
        with pack.open("r+b") as file:
            file.seek(at)
            byte = file.read(1)[0]
            file.seek(at)
            file.write(bytes([byte ^ 1]))


class TornPack(Damage):
    """The end of the newest checkpoint's pack is missing."""

    name = "torn-pack"
    meaning = "SIGKILL, and the newest checkpoint's pack is cut in half"

    def damage(self, pack: Path, copy: Copy) -> None:
        os.truncate(pack, pack.stat().st_size // 2)


class FullDisk(InBackground):
    """Whoever saves may write nothing more for a while."""

    name = "full-disk"
    meaning = "no more bytes can be written to a file for 2 s (RLIMIT_FSIZE of the process that saves)"
    lasts_seconds = 2.0

    def __init__(self) -> None:
        self._has_room: Afterwards | None = None

    def strike(self, scene: Scene) -> None:
        self._has_room = no_room(scene.agents())

    def mend(self, scene: Scene) -> None:
        if self._has_room is not None:
            self._has_room.now()


class LostRemote(Fault):
    """The mirror is gone for a while."""

    name = "remote"
    meaning = "the mirror is gone for 2 s"
    mirrored = True
    lasts_seconds = 2.0
    copies_only = "it takes away a mirror, which a drill makes for itself"

    def strike(self, scene: Scene) -> None:
        mirror = _mirror(scene)
        with suppress(FileNotFoundError):  # nothing came there yet
            mirror.rename(_aside(mirror))
        mirror.touch()  # so that it cannot be made anew

    def mend(self, scene: Scene) -> None:
        mirror = _mirror(scene)
        mirror.unlink()
        with suppress(FileNotFoundError):
            _aside(mirror).rename(mirror)


def newest_copy(repository: Repository) -> Copy:
    """A chunk that the newest checkpoint needs and those before it do not, and where it lies.

    Raises
    ------
    HoldfastError
        There is none.
    """
    run = max(repository.runs(), key=lambda run: len(run.lineage()))
    line = run.lineage()[:_LOOKED_AT]
    if len(line) < 2:
        raise HoldfastError("There is no checkpoint to fall back on.", do="Give the script more steps.")
    own = run.needed_chunks(line[0]).difference(*map(run.needed_chunks, line[1:]))
    repository.index.load_all()
    copies = [copy for digest in sorted(own) for copy in repository.index.copies(digest)]
    if not copies:
        raise HoldfastError("The newest checkpoint has no tensor of its own.", do="Try another seed.")
    return max(copies, key=lambda copy: copy.entry.stored_bytes)


def no_room(pids: list[int]) -> Afterwards:
    """Let these processes write no byte to a file; afterwards, as many as they may write at most."""
    most = resource.getrlimit(resource.RLIMIT_FSIZE)[1]
    room = "unlimited" if most == resource.RLIM_INFINITY else str(most)
    afterwards = Afterwards(f"prlimit --fsize={room}: --pid", pids)
    for pid in pids:
        with suppress(ProcessLookupError):
            hard = resource.prlimit(pid, resource.RLIMIT_FSIZE)[1]
            resource.prlimit(pid, resource.RLIMIT_FSIZE, (0, hard))
    return afterwards


def _mirror(scene: Scene) -> Path:
    if scene.mirror is None:
        raise FileNotFoundError(errno.ENOENT, "there is no mirror")
    return scene.mirror


def _aside(mirror: Path) -> Path:
    return mirror.with_name(f"{mirror.name}.lost")
