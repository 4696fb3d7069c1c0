"""A training under `holdfast run`, in processes of their own, and what came of it."""

from __future__ import annotations

import fcntl
import json
import os
import signal
import subprocess
import sys
import termios
import time
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

from tests import killing

TRAINEE = Path(__file__).with_name("trainee.py")
PATIENCE_SECONDS = 240
"""On a busy machine importing a framework takes ten seconds."""


class Supervised:
    """``holdfast run FLAGS -- python trainee.py PLACE FAULTS``; it is ended with its test."""

    def __init__(
        self,
        folder: Path,
        *faults: str,
        flags: tuple[str, ...] = (),
        wrapped: bool = False,
        piped: bool = False,
        control_group: Path | None = None,
        terminal: int | None = None,
        **variables: str,
    ) -> None:
        self.place = folder / "repository"
        self._report = folder / "report.json"
        self._log = folder / "log.txt"
        run = [sys.executable, "-m", "holdfast", "run", "--report", str(self._report), *flags, "--"]
        command = [sys.executable, str(TRAINEE), str(self.place), *faults]
        if wrapped:
            command = ["bash", "-c", '"$@"; exit $?', "wrapper", *command]
        if piped:
            command = ["bash", "-c", '"$@" | cat', "pipe", *command]
        if control_group is not None:
            command = ["sh", "-c", 'echo $$ > "$0"; exec "$@"', str(control_group / "cgroup.procs"), *command]
        with self._log.open("ab") as log:
            self.process = subprocess.Popen(
                [*run, *command],
                env=os.environ | {"OMP_NUM_THREADS": "1"} | variables,
                stdin=subprocess.DEVNULL if terminal is None else terminal,
                stdout=log if terminal is None else terminal,
                stderr=log if terminal is None else terminal,
                cwd=folder,
                start_new_session=True,
                preexec_fn=None if terminal is None else _own_terminal,  # noqa: PLW1509  # one thread here
            )

    def wait(self) -> int:
        return self.process.wait(PATIENCE_SECONDS)

    @property
    def said(self) -> str:
        return self._log.read_text()

    @property
    def report(self) -> Any:
        return json.loads(self._report.read_text())

    @property
    def causes(self) -> list[str]:
        return [launch["cause"] for launch in self.report["launches"]]

    def until(self, words: str) -> None:
        """Wait until this was printed."""
        deadline = time.monotonic() + PATIENCE_SECONDS
        while words not in self.said:
            assert self.process.poll() is None, self.said
            assert time.monotonic() < deadline, self.said
            time.sleep(0.01)

    def members(self) -> list[int]:
        """Living processes of the session it began, itself left out."""
        return [pid for pid in _alive(self.process.pid) if pid != self.process.pid]

    def trainer(self) -> int:
        """The process that trains."""
        deadline = time.monotonic() + PATIENCE_SECONDS
        while time.monotonic() < deadline:
            for pid in self.members():
                with suppress(OSError):
                    words = Path(f"/proc/{pid}/cmdline").read_bytes().split(b"\0")
                    if str(TRAINEE).encode() in words[:2]:
                        return pid
            time.sleep(0.01)
        raise AssertionError(self.said)

    def end(self) -> None:
        for pid in [*self.members(), self.process.pid]:
            with suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        self.process.wait()


def _own_terminal() -> None:
    fcntl.ioctl(0, termios.TIOCSCTTY, 0)


def _alive(session: int) -> Iterator[int]:
    for entry in Path("/proc").glob("[0-9]*"):
        with suppress(OSError):
            fields = (entry / "stat").read_text().rpartition(")")[2].split()
            if fields[0] not in "ZX" and int(fields[3]) == session:
                yield int(entry.name)


def undisturbed(folder: Path, **variables: str) -> dict[str, Any]:
    """What the training leaves when nothing happens to it."""
    place = folder / "repository"
    done = subprocess.run(
        [sys.executable, str(TRAINEE), str(place)],
        env=os.environ | {"OMP_NUM_THREADS": "1"} | variables,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return killing.left_behind(place, "digits")
