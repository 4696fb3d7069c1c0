"""A training under `holdfast run`, in processes of their own, as it is seen from outside."""

from __future__ import annotations

import json
import os
import shlex
import signal
import time
from contextlib import suppress
from pathlib import Path
from typing import Any

import msgspec
import psutil

from holdfast.drill.course import Moment
from holdfast.drill.faults.base import INSIDE_SIGNAL, INSIDE_VARIABLE, Fault, signal_all, wait_gone
from holdfast.drill.launching import Scratch, Script
from holdfast.errors import NotFoundError
from holdfast.node import channel, groups
from holdfast.node.commands import command
from holdfast.node.groups import Group, started
from holdfast.node.pulse import PLACE_VARIABLE, Page, Phase
from holdfast.repository.repository import Repository

_INSIDE = Path(__file__).with_name("inside")
_LEAVE_SECONDS = 60.0
"""For agents: they end once all is durable, and at the mirror."""
_PAUSE_SECONDS = 0.05


class Way(msgspec.Struct, frozen=True, kw_only=True):
    """How a training is saved and supervised.

    Attributes
    ----------
    save : str
        Rule in place of the script's.
    run_flags : str
        Of `holdfast run`, as in a shell.
    """

    save: str
    run_flags: str


class Supervised:
    """One training, from its first launch to the end of its supervisor.

    Parameters
    ----------
    script : Script
    name : str
        Of its place.
    way : Way
    fault : Fault
        What it is prepared for.
    """

    def __init__(self, script: Script, name: str, way: Way, fault: Fault) -> None:
        self.scratch = Scratch(script, name)
        self.mirror = self.scratch.place.with_name(f"{name}-mirror") if fault.mirrored else None
        self._report = self.scratch.place.with_name(f"{name}.json")
        flags = ["--report", str(self._report), *shlex.split(way.run_flags)]
        self._command = command("run", *flags, "--", *script.command)
        mirror = str(self.mirror) if self.mirror is not None else None
        self._variables = self.scratch.variables(way.save, mirror) | _inside(fault)
        self._page: Page | None = None
        self._began = time.monotonic()
        self.trainer = self.leader = self.launch = 0
        self._group = self._started()

    def start_again(self) -> None:
        """As somebody would whose machine is back."""
        self._group = self._started()

    def _started(self) -> Group:
        with self.scratch.log.open("ab") as log:
            return started(self._command, self._variables, log.fileno())

    # -- what is seen ------------------------------------------------------------------

    @property
    def seconds(self) -> float:
        """Since the first launch."""
        return time.monotonic() - self._began

    @property
    def step_seconds(self) -> float:
        """The longest step so far, without what is done between steps."""
        return self._page.look().longest_seconds[Phase.STEPPING] if self._page is not None else 0.0

    @property
    def supervisor(self) -> int:
        return self._group.pid

    @property
    def repository(self) -> Repository:
        return self.scratch.repository

    @property
    def place(self) -> Path:
        return self.scratch.place

    def poll(self) -> int | None:
        """Exit code of the supervisor; None while it runs."""
        return self._group.poll()

    def look(self) -> Moment | None:
        """Where the training stands; None before it has entered its Checkpointer."""
        lives = groups.lives(self.leader)
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
                place = child.environ().get(PLACE_VARIABLE)
                if child.pid != self.leader and place is not None:
                    page = Page(place)
                    self._let_page_go()
                    self._page, self.leader, self.launch = page, child.pid, self.launch + 1

    def agents(self) -> list[int]:
        """Processes that make its snapshots durable."""
        with suppress(NotFoundError):
            repository, location = self.repository, self.repository.storage.location
            addresses = {
                channel.address(repository.id, location, run.name).hex() for run in repository.runs()
            }
            return [pid for pid in psutil.pids() if addresses & set(_words(pid))]
        return []

    def report(self) -> dict[str, Any]:
        """What the supervisor wrote at its end; empty if it did not come to that."""
        try:
            found: dict[str, Any] = json.loads(self._report.read_text())
        except (OSError, ValueError):
            return {}
        return found

    # -- what is done ------------------------------------------------------------------

    def kill_launch(self) -> None:
        if groups.lives(self.leader):
            os.killpg(self.leader, signal.SIGKILL)

    def end(self) -> None:
        """Leave nothing running; what is still being brought to a mirror is waited for."""
        if self.poll() is None:
            self._group.signal_all(signal.SIGSTOP)  # it would start the training again
            self.kill_launch()
            self._group.signal_all(signal.SIGKILL)
            signal_all(self.agents(), signal.SIGKILL)
        until = time.monotonic() + _LEAVE_SECONDS
        while self.agents() and time.monotonic() < until:
            time.sleep(_PAUSE_SECONDS)
        left = self.agents()
        signal_all(left, signal.SIGKILL)
        wait_gone([self.leader, self.supervisor, *left])
        self._let_page_go()

    def _let_page_go(self) -> None:
        if self._page is not None:
            self._page.close()
            self._page = None


def _inside(fault: Fault) -> dict[str, str]:
    """What lets a training do it to itself."""
    if not fault.inside:
        return {}
    paths = os.pathsep.join(filter(None, [str(_INSIDE), os.environ.get("PYTHONPATH")]))
    return {"PYTHONPATH": paths, INSIDE_VARIABLE: f"{fault.name}:{INSIDE_SIGNAL}"}


def _words(pid: int) -> list[str]:
    with suppress(OSError):
        return Path(f"/proc/{pid}/cmdline").read_bytes().decode(errors="replace").split("\0")
    return []
