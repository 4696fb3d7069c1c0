"""Launch a training function in a process of its own, hear from it, signal it, see how it ends."""

from __future__ import annotations

import os
import signal
import sys
import tempfile
import time
import traceback
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

import holdfast
from holdfast.repository.records import EndRecord
from holdfast.repository.repository import Repository
from holdfast.repository.run import Run
from holdfast.storage.local import LocalStorage

Tell = Callable[[str], None]


class Launched:
    """A forked process that runs ``action(tell)``; what it tells, the parent hears line by line."""

    def __init__(self, action: Callable[[Tell], None], *, own_group: bool = False) -> None:
        self._said: str | None = None
        self._output = tempfile.TemporaryFile()  # noqa: SIM115  # outlives this function
        reading, writing = os.pipe()
        sys.stdout.flush()
        sys.stderr.flush()
        self.pid = os.fork()
        if self.pid == 0:
            os.close(reading)
            _run(action, writing, self._output.fileno(), own_group=own_group)
        os.close(writing)
        self._told = os.fdopen(reading)

    def heard(self) -> str:
        """The next line it tells; empty once it has ended."""
        return self._told.readline().strip()

    def signal(self, number: int) -> None:
        os.kill(self.pid, number)

    def signal_group(self, number: int) -> None:
        os.killpg(self.pid, number)

    def wait(self) -> int:
        """Its exit code as `subprocess` has it; negative for a signal."""
        code = os.waitstatus_to_exitcode(os.waitpid(self.pid, 0)[1])
        self._told.close()
        self._said = self.said
        self._output.close()
        return code

    @property
    def said(self) -> str:
        """What it printed."""
        if self._said is None:
            size = os.fstat(self._output.fileno()).st_size
            return os.pread(self._output.fileno(), size, 0).decode()
        return self._said


def _run(action: Callable[[Tell], None], writing: int, output: int, *, own_group: bool) -> None:
    code = 1
    try:
        if own_group:
            os.setpgid(0, 0)
        os.dup2(output, 1)
        os.dup2(output, 2)
        sys.stdout = sys.stderr = os.fdopen(os.dup(2), "w", buffering=1)
        action(lambda line: [os.write(writing, f"{line}\n".encode())][0] and None)
        code = 0
    except SystemExit as leaving:
        code = leaving.code if isinstance(leaving.code, int) else 1
    except KeyboardInterrupt:
        code = 130
    except BaseException:
        os.write(2, traceback.format_exc().encode())
    finally:
        os._exit(code)


def launch(action: Callable[[Tell], None], *, own_group: bool = False) -> Launched:
    return Launched(action, own_group=own_group)


def ended(action: Callable[[Tell], None], *, own_group: bool = False) -> tuple[int, str]:
    """Launch, wait, and return exit code and output."""
    process = launch(action, own_group=own_group)
    code = process.wait()
    return code, process.said


def send_self(number: int) -> None:
    os.kill(os.getpid(), number)
    time.sleep(0)  # a chance for the handler


def count(
    repository: Path,
    *,
    until: int = 6,
    each: Callable[[holdfast.Checkpointer, int], None] | None = None,
    size: int = 100,
    **options: Any,
) -> dict[str, Any]:
    """A training without a framework: every step adds its number to an array."""
    state: dict[str, Any] = {"weights": np.zeros(size), "log": []}
    with holdfast.Checkpointer(repository, state, **options) as ckpt:
        for t in ckpt.steps(until):
            state["weights"] += np.arange(size) * t
            state["log"].append(t)
            ckpt.step(loss=1.0 / (t + 1))
            if each is not None:
                each(ckpt, t)
    return state


def at(step: int, action: Callable[[holdfast.Checkpointer], Any]) -> Callable[..., None]:
    """For ``each=``: act in the turn that begins after so many steps."""

    def each(ckpt: holdfast.Checkpointer, t: int) -> None:
        if t == step:
            action(ckpt)

    return each


def run_of(repository: Path, name: str = "main") -> Run:
    return Repository.open(LocalStorage(repository)).run(name)


def steps_in(repository: Path, name: str = "main") -> list[int]:
    return [c.step for c in run_of(repository, name).checkpoints()]


def ends_in(repository: Path, name: str = "main") -> list[EndRecord]:
    """How its attempts ended, in order."""
    return [end for _, end in sorted(run_of(repository, name).ends().items())]


def is_alive(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] not in "ZX"
    except (FileNotFoundError, ProcessLookupError):
        return False


def wait_until(condition: Callable[[], bool], seconds: float = 10.0) -> bool:
    deadline = time.monotonic() + seconds
    while not condition():
        if time.monotonic() > deadline:
            return False
        time.sleep(0.01)
    return True


SIGNALS = (signal.SIGTERM, signal.SIGINT, signal.SIGUSR1)
