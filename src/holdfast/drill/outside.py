"""A training under `holdfast run`, as anybody sees it who may look into its processes."""

from __future__ import annotations

import os
import signal
import time
from abc import ABC, abstractmethod
from contextlib import suppress
from pathlib import Path

import psutil

from holdfast.drill.course import Moment
from holdfast.drill.disk import Disk
from holdfast.errors import NotFoundError
from holdfast.node import channel, groups
from holdfast.node.pulse import PLACE_VARIABLE, Page, Phase, place_of
from holdfast.repository.repository import Repository
from holdfast.repository.run import Run


class Outside(ABC):
    """What is seen of it from launch to launch, and what can be done to it.

    Attributes
    ----------
    trainer : int
        The process that trains, as far as one was seen.
    launch : int
        The how manyth launch it is that was seen, from 1.
    mirror : Path or None
        Where checkpoints are brought to as well.
    disk : Disk or None
        What they are on, if it is a disk of their own.
    """

    disk: Disk | None = None

    def __init__(self, mirror: Path | None = None) -> None:
        self.mirror = mirror
        self.trainer = self.launch = 0
        self._page: Page | None = None
        self._place = ""
        self._leads: psutil.Process | None = None
        self._began = time.monotonic()

    @property
    @abstractmethod
    def supervisor(self) -> int:
        """The process that is `holdfast run`."""

    @property
    @abstractmethod
    def repository(self) -> Repository:
        """Where it saves."""

    @property
    def place(self) -> Path:
        """The folder of that."""
        return Path(self.repository.storage.location)

    @property
    def leader(self) -> int:
        """The command of the launch; 0 if there is none any more."""
        process = self._leads
        lives = process is not None and process.is_running() and groups.lives(process.pid)
        return process.pid if process is not None and lives else 0

    @property
    def trains(self) -> bool:
        """Whether the process that trains is there, and has begun; its id alone may be another's by now."""
        return groups.lives(self.trainer) and place_of(self.trainer) == self._place

    @property
    def seconds(self) -> float:
        """Since this was made."""
        return time.monotonic() - self._began

    @property
    def step_seconds(self) -> float:
        """The longest step so far, without what is done between steps."""
        return self._page.look().longest_seconds[Phase.STEPPING] if self._page is not None else 0.0

    def look(self) -> Moment | None:
        """Where the training stands; None before it has entered its Checkpointer."""
        lives = self.leader
        moment = self._moment()  # of a dead launch this is how it ended
        if not lives:
            self._meet()
        return moment

    def _moment(self) -> Moment | None:
        if self._page is None:
            return None
        story, seen = self._page.story(), self._page.look()
        if not story.run:
            return None
        self.trainer = seen.pid
        return Moment(self.seconds, self.launch, seen.step, story.resumed or 0)

    def _meet(self) -> None:
        """Look for the next launch, and for its page."""
        with suppress(psutil.Error, OSError, ValueError):
            for child in psutil.Process(self.supervisor).children():
                place = place_of(child.pid)
                if child != self._leads and place is not None:
                    page = Page(place)
                    self.let_go()
                    self._page, self._place, self._leads = page, place, child
                    self.launch += 1

    def runs(self) -> list[Run]:
        """Those that are trained."""
        return self.repository.runs()

    def agents(self) -> list[int]:
        """Processes that make its snapshots durable."""
        with suppress(NotFoundError):
            repository, location = self.repository, self.repository.storage.location
            addresses = {channel.address(repository.id, location, run.name).hex() for run in self.runs()}
            return [pid for pid in psutil.pids() if addresses & set(words(pid))]
        return []

    def kill_launch(self) -> None:
        """End everything of the present launch, at once."""
        if leader := self.leader:
            os.killpg(leader, signal.SIGKILL)
        for pid in groups.ranks(PLACE_VARIABLE, self._place) if self._place else ():
            groups.send(pid, signal.SIGKILL)  # each is in a group of its own

    def let_go(self) -> None:
        """Look no longer at the launch that was seen last."""
        if self._page is not None:
            self._page.close()
            self._page = None


def words(pid: int) -> list[str]:
    """A process's command and arguments; empty if it is gone."""
    with suppress(OSError):
        return Path(f"/proc/{pid}/cmdline").read_bytes().decode(errors="replace").split("\0")
    return []
