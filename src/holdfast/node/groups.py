"""A command in a process group of its own, which ends with the process that started it."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Callable, Collection, Mapping, Sequence
from contextlib import suppress
from pathlib import Path

from holdfast.errors import UsageError
from holdfast.storage import linux

RANK_VARIABLES = ("RANK", "PADDLE_TRAINER_ID")
"""What launchers tell each rank, whoever's they are."""
_STOPPED = "Tt"
_DEAD = "ZXx"
_GROUP, _USER, _SYSTEM = 2, 11, 12  # fields of /proc/PID/stat, counted after the command's name


class Group:
    """What was started, with everything that it starts itself and leaves in its group.

    Parameters
    ----------
    command : sequence of str
    variables : mapping
        Its environment.
    output : int, optional
        Where it prints, in place of where this process does.

    Raises
    ------
    OSError
        It cannot be started.
    """

    def __init__(
        self, command: Sequence[str], variables: Mapping[str, str], output: int | None = None
    ) -> None:
        reads = subprocess.DEVNULL if sys.stdin is None or sys.stdin.isatty() else None
        self._process = subprocess.Popen(
            command,
            env=variables,
            stdin=reads,  # a background group that reads from a terminal would be stopped
            stdout=output,
            stderr=output,
            process_group=0,
            preexec_fn=_beginning(),  # noqa: PLW1509  # this process has one thread only
        )

    @property
    def pid(self) -> int:
        return self._process.pid

    def poll(self) -> int | None:
        """Exit code of the command, negative for a signal; None while it runs."""
        return self._process.poll()

    def holds(self, pid: int) -> bool:
        """Whether a process of this group has that id and is alive."""
        with suppress(OSError):
            return lives(pid) and os.getpgid(pid) == self.pid
        return False

    def cpu_seconds(self, others: Collection[int] = ()) -> float:
        """What its living processes, and those others, have used of processors so far."""
        ticks = 0
        for entry in Path("/proc").glob("[0-9]*"):
            with suppress(OSError, ValueError, IndexError):
                fields = (entry / "stat").read_text().rpartition(")")[2].split()
                if int(fields[_GROUP]) == self.pid or int(entry.name) in others:
                    ticks += int(fields[_USER]) + int(fields[_SYSTEM])
        return ticks / os.sysconf("SC_CLK_TCK")

    def signal_all(self, number: int) -> None:
        """Send it to every process of the group that is left."""
        with suppress(ProcessLookupError, PermissionError):
            os.killpg(self.pid, number)


def started(command: Sequence[str], variables: Mapping[str, str], output: int | None = None) -> Group:
    """Start a command that somebody typed.

    Raises
    ------
    UsageError
        There is none of this name.
    """
    try:
        return Group(command, variables, output)
    except OSError as error:
        raise UsageError(
            f"The command {command[0]!r} cannot be started: {error.strerror}.",
            do="Write it behind -- as in a shell: -- python train.py",
        ) from error


def _beginning() -> Callable[[], None]:
    """What the child does before it becomes the command: end with us, and take signals as usual."""
    parent = os.getpid()
    linux.prepare()

    def begin() -> None:
        signal.pthread_sigmask(signal.SIG_SETMASK, ())
        linux.die_with_parent(parent, signal.SIGTERM)

    return begin


def send(pid: int, number: int) -> None:
    """Signal one process; nothing if it is dead."""
    with suppress(ProcessLookupError, PermissionError):
        os.kill(pid, number)


def given(name: str, value: str) -> list[int]:
    """Processes, of whatever group, that were started with this in their environment."""
    pids = [int(entry.name) for entry in Path("/proc").glob("[0-9]*")]
    return [pid for pid in pids if pid != os.getpid() and was_given(pid, name, value) and lives(pid)]


def was_given(pid: int, name: str, value: str) -> bool:
    """Whether a process was started with this in its environment, as far as that may be seen."""
    with suppress(OSError):
        return f"{name}={value}".encode() in Path(f"/proc/{pid}/environ").read_bytes().split(b"\0")
    return False


def was_told(pid: int, names: Collection[str]) -> bool:
    """Whether a process was started with any of these in its environment, as far as that may be seen."""
    with suppress(OSError):
        words = Path(f"/proc/{pid}/environ").read_bytes().split(b"\0")
        return any(word.partition(b"=")[0].decode(errors="replace") in names for word in words)
    return False


def ranks(name: str, value: str) -> list[int]:
    """Of processes that were started with this in their environment those that a launcher made a rank."""
    names = [variable for variable in RANK_VARIABLES if variable not in os.environ]  # else all have it
    return [pid for pid in given(name, value) if was_told(pid, names)]


def parent(pid: int) -> int:
    """The process above; 0 if there is none, or it is not known."""
    with suppress(OSError, IndexError, ValueError):
        return int(Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[1])
    return 0


def lives(pid: int) -> bool:
    """Whether there is such a process, and it is not waiting for its end to be noticed."""
    return pid > 0 and _state(pid) not in _DEAD


def is_paused(pid: int) -> bool:
    """Whether somebody has stopped the process, or looks into it with a debugger: no time passes for it."""
    with suppress(OSError, KeyError, IndexError):
        fields = _status(pid)
        return fields["State"][0] in _STOPPED or fields["TracerPid"] != "0"
    return False


def catches(pid: int, number: int) -> bool:
    """Whether a process has a handler for a signal, which would end it otherwise."""
    with suppress(OSError, KeyError, ValueError):
        return bool(int(_status(pid)["SigCgt"], 16) >> (number - 1) & 1)
    return False


def _status(pid: int) -> dict[str, str]:
    rows = (line.partition(":") for line in Path(f"/proc/{pid}/status").read_text().splitlines())
    return {name: value.strip() for name, _, value in rows}


def _state(pid: int) -> str:
    with suppress(OSError):
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
    return "X"
