"""A training script in a process of its own, and how to kill it without warning."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

import holdfast
from holdfast.node.channel import address
from holdfast.repository.repository import Repository
from holdfast.storage.urls import open_storage

LOOK_SECONDS = 0.0005
LOOK_AROUND_SECONDS = 0.3
"""Looking at all processes takes longer than a save."""
PATIENCE_SECONDS = {"pack": 8.0, "manifest": 0.6}
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
        self._run = run
        self._address: bytes | None = None
        self._known: list[int] = []
        self._looked = 0.0
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
        """Kill it with SIGKILL, now or while a part of a checkpoint is written, frozen to be sure.

        Parameters
        ----------
        in_part : {"pack", "manifest"}, optional
            Return with everything unharmed unless this is being written, by the script or by the
            process that saves for it in the background: then both are killed.

        Returns
        -------
        str or None
            The part of a checkpoint that was being written; None if none was, or nothing was killed.
        """
        if in_part is None:
            self._end_at_once(self._process.pid)
            return None
        for pid in (self._process.pid, *self._agents()):
            if self._freeze(pid, in_part):
                self._end_at_once(pid)
                return in_part
        return None

    def _freeze(self, pid: int, part: str) -> bool:
        """Stop a process; but only while it writes this."""
        if self._writing(pid) != part:
            return False
        with suppress(ProcessLookupError):
            os.kill(pid, signal.SIGSTOP)
            while _state(pid) not in "TtZX":
                time.sleep(LOOK_SECONDS)
            if self._writing(pid) == part:
                return True
            os.kill(pid, signal.SIGCONT)
        return False

    def _end_at_once(self, pid: int) -> None:
        with suppress(ProcessLookupError):
            os.kill(pid, signal.SIGKILL)
        self._process.send_signal(signal.SIGKILL)
        self._process.wait()

    def kill_in_save(self, part: str) -> str | None:
        """Kill it while it writes a pack or a manifest; at any moment if it is not seen doing so for long."""
        patient_until = time.monotonic() + PATIENCE_SECONDS[part]
        while self.exit_code() is None and time.monotonic() < patient_until:
            killed_in = self.kill(part)
            if killed_in is not None:
                return killed_in
            time.sleep(LOOK_SECONDS)
        return self.kill() if self.exit_code() is None else None

    def _writing(self, pid: int) -> str | None:
        """The part of a checkpoint that a process has open for writing and that has no name yet."""
        parts = [_part_of(link, self.repository) for link in _unpublished(pid)]
        return next((part for part in parts if part is not None), None)

    def _agents(self) -> list[int]:
        """Processes that save for this run in the background; they are told where they are to be found."""
        if time.monotonic() < self._looked + LOOK_AROUND_SECONDS:
            return self._known
        self._looked = time.monotonic()
        if self._address is None:
            with suppress(holdfast.HoldfastError):
                opened = Repository.open(open_storage(self.repository))
                place = address(opened.id, opened.storage.location, self._run)
                self._address = place.hex().encode()
        everything = Path("/proc").glob("[0-9]*")
        self._known = [int(p.name) for p in everything if self._address in _words(p)]
        return self._known

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


def _words(process: Path) -> list[bytes]:
    with suppress(OSError):
        return (process / "cmdline").read_bytes().split(b"\0")
    return []


def _state(pid: int) -> str:
    with suppress(OSError):
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
    return "X"


def _part_of(link: str, repository: Path) -> str | None:
    """Which part of a checkpoint a nameless file is to become, by the folder it is in."""
    if not link.startswith(f"{repository}/"):
        return None
    if link.startswith((f"{repository}/packs/", f"{repository}/staging/")):
        return "pack"
    return "manifest" if "/checkpoints/" in link.removeprefix(str(repository)) else None
