"""Processes that are started, killed or paused at random moments, and looked at when they end."""

from __future__ import annotations

import os
import random
import signal
import sys
import time
import traceback
from collections import Counter, deque
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path

from torture_training import DURABLE
from torture_work import BROKEN, COMPARED, exit_code

STUCK_SECONDS = 240.0
TRAINED_SECONDS = 8.0
EVENTS = 40
NEVER = float("inf")
DONE, USAGE, NOT_FOUND, BUSY, SIGTERMED = 0, 2, 3, 6, 143
MAY_END = {
    "train": {SIGTERMED, BUSY},
    "compare": {DONE, NOT_FOUND},
    "compact": {DONE, BUSY},
    "prune": {DONE, BUSY, NOT_FOUND},
    "sync": {DONE, BUSY},
    "fork": {DONE, NOT_FOUND},
    "tag": {DONE, NOT_FOUND},
    "rm": {DONE, USAGE, NOT_FOUND, BUSY},
    "rm run": {DONE, NOT_FOUND, BUSY},
    "mv": {DONE, NOT_FOUND, BUSY},
}
"""Exit codes by kind of process; the others are to end well. To be killed is always allowed."""
EXCUSES = {"sync": "it comes back once it is gone"}
"""What excuses any code: a prune of the destination was killed amid the removal of what is to come."""

Work = Callable[[], None]
After = Callable[[int | None], None]
"""Told the exit code of a process that ended by itself, or None if it was killed."""


class TortureError(Exception):
    """Something is not as it must be."""


@dataclass
class Job:
    """What a process is to do; ``run`` is the one that it trains."""

    kind: str
    words: str
    work: Work
    after: After = lambda code: None
    run: str = ""


@dataclass
class Child:
    """A process at its job, and when it is to be killed or paused, if it still lives by then."""

    job: Job
    pid: int
    output: Path
    begun: float = field(default_factory=time.monotonic)
    fate_at: float = NEVER
    wakes_at: float = NEVER


class Herd:
    """All processes but the agents.

    Attributes
    ----------
    done, refused, kills : Counter
        By kind.
    saves, restores : int
        How many were reported durable, and how many compared, by those who have ended.
    events : deque
        The last ones.
    """

    def __init__(self, folder: Path, chance: random.Random) -> None:
        self._folder = folder
        self._chance = chance
        self._usual_seconds: dict[str, float] = {}
        self.children: dict[int, Child] = {}
        self.started = 0
        self.done: Counter[str] = Counter()
        self.refused: Counter[str] = Counter()
        self.kills: Counter[str] = Counter()
        self.saves = self.restores = 0
        self.events: deque[str] = deque(maxlen=EVENTS)
        (folder / "output").mkdir()

    @property
    def trained(self) -> set[str]:
        return {child.job.run for child in self.children.values()} - {""}

    def start(self, job: Job, *, spared: bool = False) -> None:
        self.started += 1
        output = self._folder / "output" / f"{self.started:06}-{job.kind.replace(' ', '-')}"
        output.touch()
        seed = self._chance.getrandbits(32)
        pid = os.fork()
        if pid == 0:
            _become(job, output, seed)
        child = self.children[pid] = Child(job, pid, output)
        if not spared:
            child.fate_at = self._fate_at(child)
        self.tell(f"starts {pid} {job.words}")

    def _fate_at(self, child: Child) -> float:
        """Trainers all die, half of the others, at any moment of what they usually take."""
        trains = child.job.kind == "train"
        if not trains and self._chance.random() < 0.5:
            return NEVER
        usual_seconds = TRAINED_SECONDS if trains else 1.2 * self._usual_seconds.get(child.job.kind, 0.3)
        return child.begun + self._chance.random() * usual_seconds

    def let_fate_come(self) -> None:
        now = time.monotonic()
        for child in self.children.values():
            if now >= child.wakes_at:
                child.wakes_at = NEVER
                os.kill(child.pid, signal.SIGCONT)
            if now >= child.fate_at:
                self._meet_fate(child)

    def _meet_fate(self, child: Child) -> None:
        number = self._chance.choices([signal.SIGKILL, signal.SIGSTOP, signal.SIGTERM], [7, 1, 2])[0]
        if number == signal.SIGTERM and child.job.kind != "train":
            number = signal.SIGKILL
        child.fate_at = NEVER
        if number == signal.SIGSTOP:
            child.wakes_at = time.monotonic() + self._chance.random()
            child.fate_at = child.wakes_at + self._chance.random()
        os.kill(child.pid, number)
        self.tell(f"sends {number.name} to {child.pid} {child.job.words}")

    def reap(self) -> None:
        while self.children:
            pid, status = os.waitpid(-1, os.WNOHANG)
            if pid == 0:
                break
            self._ended(self.children.pop(pid), status)
        stuck = [c for c in self.children.values() if time.monotonic() - c.begun > STUCK_SECONDS]
        if stuck:
            raise TortureError(f"{stuck[0].pid} {stuck[0].job.words} does not end")

    def _ended(self, child: Child, status: int) -> None:
        job, said = child.job, child.output.read_text(errors="replace")
        code = None if os.WIFSIGNALED(status) else os.waitstatus_to_exitcode(status)
        self.tell(f"ended {child.pid} {job.words}: {'killed' if code is None else code}")
        self.restores += said.count(COMPARED)
        self.saves += said.count(DURABLE)
        self._count(job.kind, code)
        if code == DONE:
            usual_seconds = self._usual_seconds.get(job.kind, 0.3)
            self._usual_seconds[job.kind] = 0.8 * usual_seconds + 0.2 * (time.monotonic() - child.begun)
        excused = job.kind in EXCUSES and EXCUSES[job.kind] in said
        ends_well = code is None or code in MAY_END.get(job.kind, {DONE}) or excused
        if "Traceback" in said or not ends_well:
            raise TortureError(f"{child.pid} {job.words} ended with {code}:\n{said}")
        child.output.unlink()
        job.after(code)

    def _count(self, kind: str, code: int | None) -> None:
        counter = self.kills if code is None else self.done if code in (DONE, SIGTERMED) else self.refused
        counter[kind] += 1

    def wait(self) -> None:
        """Until nobody is left."""
        while self.children:
            self.reap()
            time.sleep(0.01)

    def let_go(self) -> None:
        """Trainers are stopped, one way or the other; the others finish."""
        for child in self.children.values():
            child.fate_at = child.wakes_at = NEVER
            if child.job.kind == "train":
                os.kill(child.pid, self._chance.choice([signal.SIGTERM, signal.SIGKILL]))
            os.kill(child.pid, signal.SIGCONT)
        self.wait()

    def end(self) -> None:
        """Nobody outlives this process."""
        for pid in self.children:
            with suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
            os.waitpid(pid, 0)

    def tell(self, what: str) -> None:
        line = f"{time.monotonic():.3f} {what}"
        self.events.append(line)
        with (self._folder / "events").open("a") as file:
            file.write(line + "\n")


def _become(job: Job, output: Path, seed: int) -> None:
    """The rest of a forked process."""
    code = BROKEN
    try:
        descriptor = os.open(output, os.O_WRONLY | os.O_APPEND)
        os.dup2(descriptor, 1), os.dup2(descriptor, 2)
        sys.stdout, sys.stderr = os.fdopen(1, "w", closefd=False), os.fdopen(2, "w", closefd=False)
        code = exit_code(job.work, seed)
    except BaseException:
        traceback.print_exc()
    finally:
        sys.stdout.flush(), sys.stderr.flush()
        os._exit(code)
