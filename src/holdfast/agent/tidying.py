"""Compacting a run's packs whenever there is nothing else to do: the command ``holdfast compact``, beside.

It is a process of its own, on one core, and gets what nobody else wants of it: saves and training do not
wait for it. It may be killed at any time, and outlives its agent.
"""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from contextlib import suppress
from typing import IO

import psutil

from holdfast.errors import BusyError
from holdfast.node.memory import SPARE_BYTES, available_bytes

CHECKPOINTS = 4
"""New ones that are worth it: as many as may be encoded by one another."""
IDLE_SECONDS = 1.0
NEED_BYTES = 768 * 1024 * 1024
"""Memory that a compaction takes, about."""


class Tidying:
    """Compactions of one run, one at a time.

    Parameters
    ----------
    location, run : str
    warn : callable
        Told what went wrong, once.
    """

    def __init__(self, location: str, run: str, warn: Callable[[str], None]) -> None:
        self._command = [sys.executable, "-m", "holdfast", "compact", run, "--repository", location]
        self._warn = warn
        self._new = 0
        self._idle_since: float | None = None
        self._running: tuple[subprocess.Popen[bytes], IO[bytes]] | None = None
        self._has_failed = False

    def committed(self) -> None:
        """A checkpoint has come."""
        self._new += 1

    def wakes_in(self) -> float | None:
        """Seconds after which to look again; None if nothing is to be done."""
        if self._running is not None:
            return IDLE_SECONDS
        if self._new < CHECKPOINTS or self._has_failed:
            return None
        waited = 0.0 if self._idle_since is None else time.monotonic() - self._idle_since
        return max(IDLE_SECONDS - waited, 0.1)

    def look(self, *, idle: bool) -> None:
        """Begin if it is time, and see to one that has ended.

        Parameters
        ----------
        idle : bool
            Nothing is being made durable.
        """
        self._collect()
        if not idle:
            self._idle_since = None
            return
        if self._idle_since is None:
            self._idle_since = time.monotonic()
        long_enough = time.monotonic() - self._idle_since >= IDLE_SECONDS
        if long_enough and self._new >= CHECKPOINTS and self._running is None and not self._has_failed:
            self._begin()

    def end(self) -> None:
        """Nobody trains any more: what has come since the last time is compacted now."""
        self._collect()
        if self._new and self._running is None and not self._has_failed:
            self._begin()

    def _begin(self) -> None:
        if available_bytes() < NEED_BYTES + SPARE_BYTES:
            return
        said = tempfile.TemporaryFile()  # noqa: SIM115  # until it has ended
        environment = os.environ | {"PYTHONPATH": os.pathsep.join(path for path in sys.path if path)}
        try:
            process = subprocess.Popen(
                self._command,
                stdin=subprocess.DEVNULL,
                stdout=subprocess.DEVNULL,
                stderr=said,
                env=environment,
                start_new_session=True,
            )
        except OSError as error:
            said.close()
            self._failed(str(error))
            return
        _give_way(process.pid)
        self._running, self._new = (process, said), 0

    def _collect(self) -> None:
        if self._running is None or self._running[0].poll() is None:
            return
        (process, said), self._running = self._running, None
        with said:
            if process.returncode not in (0, BusyError.exit_code):  # old packs may stay until the next time
                said.seek(0)
                lines = said.read().decode(errors="replace").strip().splitlines()
                self._failed(lines[0] if lines else f"it ended with {process.returncode}")

    def _failed(self, why: str) -> None:
        self._has_failed = True
        self._warn(f"packs are not compacted any more: {why.removeprefix('error: ')}")


def _give_way(pid: int) -> None:
    """Let it have one core, while nobody else wants that, and the disk likewise."""
    with suppress(OSError, psutil.Error, AttributeError):
        os.sched_setaffinity(pid, {max(os.sched_getaffinity(pid))})
        os.sched_setscheduler(pid, os.SCHED_IDLE, os.sched_param(0))
        psutil.Process(pid).ionice(psutil.IOPRIO_CLASS_IDLE)
