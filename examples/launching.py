"""A training script in a process of its own, and how to kill it without warning."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

LOOK_SECONDS = 0.0005
PATIENCE_SECONDS = {"pack": 10.0, "manifest": 0.6}
"""On a busy machine a manifest, which is small, is written between two looks."""
_BEGINS = re.compile(
    r"^holdfast: run \S+ (starts|resumes after step (\d+) \(epoch (\d+)(?:, batch (\d+))?)", re.M
)


@dataclass(frozen=True)
class Position:
    """Where a run stands; ``batch`` is 0 between two epochs."""

    step: int = 0
    epoch: int = 0
    batch: int = 0


class Launch:
    """One launch of a training script; its output is appended to a log.

    Parameters
    ----------
    script : Path
        One of the examples.
    repository : Path
    run : str
    epochs : int
    log : Path
    """

    def __init__(self, script: Path, repository: Path, run: str, epochs: int, log: Path) -> None:
        self.repository = repository.resolve()
        self._log = log
        self._log_start = log.stat().st_size if log.exists() else 0
        command = [sys.executable, str(script), "--checkpoints", str(repository), "--run", run]
        with log.open("ab") as output:
            self._process = subprocess.Popen(
                [*command, "--epochs", str(epochs)],
                stdout=output,
                stderr=output,
                start_new_session=True,  # so that what kills us need not kill it, nor the other way round
                env=os.environ | {"OMP_NUM_THREADS": "1"},
            )

    @property
    def said(self) -> str:
        """What it has printed so far."""
        with self._log.open("rb") as file:
            file.seek(self._log_start)
            return file.read().decode(errors="replace")

    @property
    def beginning(self) -> Position | None:
        """Where it began, as it says itself; None as long as it has not."""
        found = _BEGINS.search(self.said)
        return Position(*(int(number or 0) for number in found.groups()[1:])) if found is not None else None

    def exit_code(self) -> int | None:
        return self._process.poll()

    def kill(self, in_part: str | None = None) -> str | None:
        """Kill it with SIGKILL, now or while it writes a part of a checkpoint, frozen to be sure.

        Parameters
        ----------
        in_part : {"pack", "manifest"}, optional
            Return with the process unharmed unless it is writing this.

        Returns
        -------
        str or None
            The part of a checkpoint it was writing when it died; None if it was not saving,
            or has not been killed.
        """
        pid = self._process.pid
        if in_part is not None and self.writing() != in_part:
            return None
        os.kill(pid, signal.SIGSTOP)
        os.waitid(os.P_PID, pid, os.WSTOPPED | os.WEXITED | os.WNOWAIT)
        part = self.writing()
        if in_part is not None and part != in_part:
            os.kill(pid, signal.SIGCONT)
            return None
        os.kill(pid, signal.SIGKILL)
        self._process.wait()
        return part

    def kill_in_save(self, part: str) -> str | None:
        """Kill it while it writes a pack or a manifest; at any moment if it is not seen doing so for long."""
        patient_until = time.monotonic() + PATIENCE_SECONDS[part]
        while self.exit_code() is None and time.monotonic() < patient_until:
            killed_in = self.kill(part)
            if killed_in is not None:
                return killed_in
            time.sleep(LOOK_SECONDS)
        return self.kill() if self.exit_code() is None else None

    def writing(self) -> str | None:
        """The part of a checkpoint that it has open for writing and that has no name yet."""
        parts = [_part_of(link, self.repository) for link in _unpublished(self._process.pid)]
        return next((part for part in parts if part is not None), None)

    def end(self) -> None:
        """Kill whatever is left of it, data workers included."""
        if self._process.poll() is None:
            os.killpg(self._process.pid, signal.SIGKILL)
            self._process.wait()


def _unpublished(pid: int) -> Iterator[str]:
    """Names of files that a process has open for writing only and that nobody else can see yet."""
    try:
        for descriptor in Path(f"/proc/{pid}/fd").iterdir():
            flags = re.search(r"flags:\s*(\d+)", Path(f"/proc/{pid}/fdinfo/{descriptor.name}").read_text())
            if flags is not None and int(flags[1], 8) & os.O_ACCMODE == os.O_WRONLY:
                link = str(descriptor.readlink())
                if descriptor.stat().st_nlink == 0 or "/.tmp-" in link:
                    yield link
    except OSError:
        return  # it ended, closed one meanwhile, or this system has no /proc


def _part_of(link: str, repository: Path) -> str | None:
    """Which part of a checkpoint a nameless file is to become, by the folder it is in."""
    if not link.startswith(f"{repository}/"):
        return None
    if link.startswith((f"{repository}/packs/", f"{repository}/staging/")):
        return "pack"
    return "manifest" if "/checkpoints/" in link.removeprefix(str(repository)) else None
