"""Process identity that survives reuse of process ids, and proof that a process is dead."""

from __future__ import annotations

import os
import socket
from pathlib import Path

import msgspec
import psutil


class ProcessIdentity(msgspec.Struct, frozen=True):
    """Who a process is.

    Attributes
    ----------
    host : str
    boot : str
        Id of the machine's boot; processes of another boot are dead.
    pid_namespace : str
        Process ids mean something only inside it.
    pid : int
    started_seconds : float
        When the process started, by the kernel: tells a reused pid apart.
    """

    host: str
    boot: str
    pid_namespace: str
    pid: int
    started_seconds: float

    @classmethod
    def of_this_process(cls) -> ProcessIdentity:
        process = psutil.Process()
        return cls(
            socket.gethostname(), _boot(), _pid_namespace(), process.pid, round(process.create_time(), 2)
        )

    def provably_dead(self) -> bool:
        """Whether it cannot be running any more, as far as this process can prove."""
        if self.host != socket.gethostname():
            return False
        if self.boot != _boot():
            return True
        return self.pid_namespace == _pid_namespace() and not self._runs()

    def _runs(self) -> bool:
        try:
            process = psutil.Process(self.pid)
            same = abs(process.create_time() - self.started_seconds) < 0.05
            return same and process.status() != psutil.STATUS_ZOMBIE
        except psutil.NoSuchProcess:
            return False

    def visible(self) -> bool:
        """Whether this process can see it, so that its liveness needs no clock."""
        return (self.boot, self.pid_namespace) == (_boot(), _pid_namespace())

    def __str__(self) -> str:
        return f"process {self.pid} on {self.host}"


def _boot() -> str:
    try:
        return Path("/proc/sys/kernel/random/boot_id").read_text().strip()
    except OSError:
        return str(int(psutil.boot_time()))


def _pid_namespace() -> str:
    try:
        return os.readlink("/proc/self/ns/pid")  # noqa: PTH115  # not a path: 'pid:[4026531836]'
    except OSError:
        return ""
