"""What a fault is, and what it can reach."""

from __future__ import annotations

import time
from pathlib import Path
from typing import ClassVar, Protocol

from holdfast.errors import HoldfastError
from holdfast.node import groups
from holdfast.repository.repository import Repository

_GONE_SECONDS = 20.0


class Disk(Protocol):
    """A file system that can lose power."""

    def shut_down(self) -> None: ...

    def power_up(self) -> None: ...


class Scene(Protocol):
    """A supervised training, as a fault meets it.

    Attributes
    ----------
    trainer, leader, supervisor : int
        Processes: the one that trains, the command that was started, `holdfast run`.
    trains : bool
        Whether the one that trains is there, and has begun.
    mirror : Path or None
        Where checkpoints are brought to as well.
    disk : Disk or None
        What they are on, if it is a disk of their own.
    """

    trainer: int
    mirror: Path | None

    @property
    def disk(self) -> Disk | None: ...

    @property
    def leader(self) -> int: ...

    @property
    def supervisor(self) -> int: ...

    @property
    def trains(self) -> bool: ...

    @property
    def repository(self) -> Repository: ...

    @property
    def place(self) -> Path: ...

    def agents(self) -> list[int]:
        """The processes that make its snapshots durable."""
        ...

    def kill_launch(self) -> None:
        """End everything of the present launch, at once."""
        ...


class Fault:
    """One thing that goes wrong.

    Attributes
    ----------
    name, meaning : str
        As on the command line; what happens, in a few words.
    lasts_seconds : float
        From `strike` to `mend`.
    inside_signal : int
        On which signal the training does it to itself; 0 if it happens from outside.
    mirrored, has_own_disk : bool
        Whether the training is to have a mirror, and a disk of its own.
    starts_again : bool
        Whether the supervisor dies, too, and somebody else has to start it again.
    spoils_state : bool
        Whether what is saved afterwards may be wrong until the run goes back: then only what it stands on
        in the end is compared.
    copies_only : str
        Why it must not happen to a live run; empty if it may.
    """

    name: ClassVar[str]
    meaning: ClassVar[str]
    lasts_seconds: ClassVar[float] = 0.0
    inside_signal: ClassVar[int] = 0
    mirrored: ClassVar[bool] = False
    has_own_disk: ClassVar[bool] = False
    starts_again: ClassVar[bool] = False
    spoils_state: ClassVar[bool] = False
    copies_only: ClassVar[str] = ""

    def lacks(self, scene: Scene) -> str:
        """What has to be there first; empty once it is."""
        return "" if scene.trains else "nothing trains"

    def strike(self, scene: Scene) -> None:
        """Let it happen.

        Raises
        ------
        HoldfastError
            It cannot be made to happen here.
        """
        raise NotImplementedError

    def mend(self, scene: Scene) -> None:
        """Put right what does not pass by itself."""


class InBackground(Fault):
    """Needs the process that saves in the background, which may still be on its way."""

    def lacks(self, scene: Scene) -> str:
        return super().lacks(scene) or ("" if scene.agents() else "nothing saves in the background")


def launch_of(scene: Scene) -> list[int]:
    """Its command and the process that trains, as far as they are there: ids are used again."""
    return [scene.leader, scene.trainer] if scene.trains else [scene.leader]


def signal_all(pids: list[int], number: int) -> None:
    for pid in pids:
        groups.send(pid, number)


def ended(pids: list[int], seconds: float) -> bool:
    """Whether these processes do nothing any more, within that time."""
    until = time.monotonic() + seconds
    while any(groups.lives(pid) for pid in pids):
        if time.monotonic() > until:
            return False
        time.sleep(0.01)
    return True


def wait_gone(pids: list[int]) -> None:
    """Wait until these processes do nothing any more.

    Raises
    ------
    HoldfastError
        One goes on.
    """
    if not ended(pids, _GONE_SECONDS):
        raise HoldfastError("A process that was killed does not end.", do="Look whether its disk answers.")
