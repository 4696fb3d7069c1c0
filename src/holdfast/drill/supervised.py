"""A copy of a training under `holdfast run`, in processes of its own."""

from __future__ import annotations

import json
import shlex
import signal
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import msgspec
import psutil

from holdfast.drill.disk import Disk
from holdfast.drill.faults.base import Fault, signal_all, wait_gone
from holdfast.drill.faults.held import held
from holdfast.drill.faults.inside import variables
from holdfast.drill.launching import Scratch, Script
from holdfast.drill.outside import Outside, words
from holdfast.node.commands import command
from holdfast.node.groups import Group, started
from holdfast.repository.repository import Repository

_LEAVE_SECONDS = 60.0
"""For what goes on behind a training: until all is durable, and at the mirror."""
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


class Supervised(Outside):
    """One training, from its first launch to the end of its supervisor.

    Parameters
    ----------
    script : Script
    name : str
        Of its place.
    way : Way
    faults : sequence of Fault
        What it is prepared for.
    """

    def __init__(self, script: Script, name: str, way: Way, faults: Sequence[Fault]) -> None:
        self.scratch = Scratch(script, name)
        mirrored = any(fault.mirrored for fault in faults)
        super().__init__(self.scratch.place.with_name(f"{name}-mirror") if mirrored else None)
        self._report = self.scratch.place.with_name(f"{name}.json")
        flags = ["--report", str(self._report), *shlex.split(way.run_flags)]
        self._command = command("run", *flags, "--", *script.command)
        mirror = str(self.mirror) if self.mirror is not None else None
        self._variables = self.scratch.variables(way.save, mirror) | variables(faults)
        if any(fault.has_own_disk for fault in faults):
            self.disk = Disk(self.scratch.place)
        self._group = self._started()

    def start_again(self) -> None:
        """As somebody would whose machine is back."""
        self._group = self._started()

    def _started(self) -> Group:
        with self.scratch.log.open("ab") as log:
            return started(self._command, self._variables, log.fileno())

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

    def report(self) -> dict[str, Any]:
        """What the supervisor wrote at its end; empty if it did not come to that."""
        try:
            found: dict[str, Any] = json.loads(self._report.read_text())
        except (OSError, ValueError):
            return {}
        return found

    def end(self) -> None:
        """Leave nothing running; what is still being brought to a mirror is waited for."""
        try:
            self._end_processes()
        finally:
            self.let_go()
            if self.disk is not None:
                self.disk.close()

    def _end_processes(self) -> None:
        launch = [self.leader, self.trainer]
        if self.poll() is None:
            with held(self.supervisor):  # it would start the training again
                self.kill_launch()
                self._group.signal_all(signal.SIGKILL)
            signal_all(self._behind(), signal.SIGKILL)
        until = time.monotonic() + _LEAVE_SECONDS
        while self._behind() and time.monotonic() < until:
            time.sleep(_PAUSE_SECONDS)
        left = self._behind()
        signal_all(left, signal.SIGKILL)
        wait_gone([*launch, self.supervisor, *left])

    def _behind(self) -> list[int]:
        """Agents, and what brings checkpoints to a mirror, which may outlive them."""
        place = str(self.place)
        return [*self.agents(), *(pid for pid in psutil.pids() if any(place in w for w in words(pid)))]
