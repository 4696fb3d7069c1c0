"""Process identity that survives reuse of process ids, and proof that a process is dead."""

from __future__ import annotations

import os
import socket
from pathlib import Path

import msgspec
import psutil

_STATE, _STARTED = 0, 19  # fields of /proc/PID/stat, counted after the command's name


class ProcessIdentity(msgspec.Struct, frozen=True):
    """Who a process is.

    Attributes
    ----------
    host : str
        For messages, and to tell machines apart.
    boot : str
        Id of the machine's boot; processes of another boot are dead.
    pid_namespace : str
        Process ids mean something only inside it.
    pid : int
    started_seconds : float
        When the process started, by the kernel's clock since boot, which nobody sets: tells
        a reused pid apart.
    """

    host: str
    boot: str
    pid_namespace: str
    pid: int
    started_seconds: float

    @classmethod
    def of_this_process(cls) -> ProcessIdentity:
        return cls.of_process(os.getpid())

    @classmethod
    def of_process(cls, pid: int) -> ProcessIdentity:
        """That of a process of this machine, as it is now."""
        started = _started_seconds(pid)
        return cls(socket.gethostname(), _boot(), _pid_namespace(), pid, started or 0.0)

    def is_this_process(self) -> bool:
        """Whether it is the process that asks, whatever its machine is called by now."""
        return self.visible() and self.pid == os.getpid() and self._runs()

    def provably_dead(self) -> bool:
        """Whether it cannot be running any more, as far as this process can prove."""
        if self.boot != _boot():
            return self.host == socket.gethostname()
        return self.pid_namespace == _pid_namespace() and not self._runs()

    def _runs(self) -> bool:
        started = _started_seconds(self.pid)
        return started is not None and abs(started - self.started_seconds) < 0.015

    def visible(self) -> bool:
        """Whether this process can see it, so that its liveness needs no clock."""
        return (self.boot, self.pid_namespace) == (_boot(), _pid_namespace())

    def __str__(self) -> str:
        return f"process {self.pid} on {self.host}"


def _started_seconds(pid: int) -> float | None:
    """When a process started, in seconds since boot; None if there is none, or only its zombie.

    Not psutil's creation time, which moves when the wall clock is set.
    """
    if not Path("/proc/self/stat").exists():
        return _created_seconds(pid)
    try:
        fields = Path(f"/proc/{pid}/stat").read_bytes().rpartition(b")")[2].split()
    except (FileNotFoundError, ProcessLookupError):
        return None
    dead = fields[_STATE] in (b"Z", b"X", b"x")
    return None if dead else int(fields[_STARTED]) / os.sysconf("SC_CLK_TCK")


def _created_seconds(pid: int) -> float | None:
    try:
        process = psutil.Process(pid)
        return None if process.status() == psutil.STATUS_ZOMBIE else round(process.create_time(), 2)
    except psutil.NoSuchProcess:
        return None


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
