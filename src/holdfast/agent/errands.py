"""What an agent has done beside its work: packs compacted, checkpoints brought to a mirror, files published.

Each errand is a process of its own that runs commands of the command line, so that neither saves nor training
wait for it. It may be killed at any time, and outlives its agent.
"""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from typing import IO, NamedTuple

import msgspec
import psutil

from holdfast.domain import events
from holdfast.domain.events import Listener, unheard
from holdfast.node.commands import environment, last_error, not_brought
from holdfast.node.memory import SPARE_BYTES, available_bytes
from holdfast.node.messages import Hello, Message, Told, Uploaded

LOOK_SECONDS = 1.0
PAUSES_SECONDS = (5.0, 15.0, 60.0, 300.0)
"""Between tries of one that fails; the last one again and again."""
LAST_SECONDS = 6 * 3600.0
"""For how long what is left at the end of training is tried."""
LEFT_DAMAGED, NEWEST_LEFT, REFUSED_FOR_NOW = 80, 81, 82
"""How a round ends that brought all but what is damaged here; not even the newest; nothing as yet."""
_RUNNER = "import sys; from holdfast.agent.errand import main; sys.exit(main(*sys.argv[1:]))"


class Errand(msgspec.Struct, frozen=True):
    """What is to be done now and then.

    Attributes
    ----------
    failing : str
        How to say that it does not work.
    commands : list[list[str]]
        Words of the command line, one after the other.
    checkpoints : int
        New ones that are worth it.
    need_bytes : int
        Memory that it takes, about.
    uploads_to : str or None
        The mirror at which checkpoints are afterwards.
    at_once : bool
        Do it when training begins, too: an attempt before may have died before it was done.
    run : str
        Whose.
    gently : bool
        On one core at the lowest priority, and given up after a failure; else it is tried until it works.
    """

    failing: str
    commands: list[list[str]]
    checkpoints: int
    need_bytes: int
    run: str = ""
    gently: bool = False
    uploads_to: str | None = None
    at_once: bool = False


def errands_of(hello: Hello) -> list[Errand]:
    """What a trainer asks for."""
    found = []
    for mirror in hello.mirrors:
        keep = ["--keep", mirror.keep] if mirror.keep is not None else []
        commands = [["sync", hello.location, mirror.place, hello.run, *keep]]
        if keep:
            commands.append(["prune", hello.run, *keep, "--yes", "--repository", mirror.place])
        lags = f"{mirror.place} lags behind"
        found.append(Errand(lags, commands, 1, 256 << 20, hello.run, uploads_to=mirror.place))
    for wanted in hello.publish:
        address = f"{hello.run}@{wanted.at}"
        commands = [["publish", address, wanted.path, "--repository", hello.location]]
        found.append(Errand(f"{wanted.path} is not kept current", commands, 1, 512 << 20, at_once=True))
    if hello.compact:  # four may be encoded by one another
        commands = [["compact", hello.run, "--repository", hello.location]]
        found.append(Errand("packs are not compacted any more", commands, 4, 768 << 20, gently=True))
    return found


class _Round(NamedTuple):
    """One that is under way: since its beginning there were so many new checkpoints, up to this sequence."""

    process: subprocess.Popen[bytes]
    said: IO[bytes]
    checkpoints: int
    newest: int
    began_seconds: float


class Rounds:
    """The rounds of one errand, one at a time.

    Parameters
    ----------
    errand : Errand
    tell : callable
        Given messages for the trainer: once that it fails, once that it works again; what is at the mirror.
    emit : callable
        Takes every upload, and every one that failed, as an event.
    """

    def __init__(self, errand: Errand, tell: Callable[[Message], None], emit: Listener = unheard) -> None:
        self.errand = errand
        self._tell = tell
        self._emit = emit
        self._new = 1 if errand.at_once else 0
        self._newest = 0
        self._failures = 0
        self._left = ""
        self._not_before = 0.0
        self._running: _Round | None = None

    def serve_another(self) -> None:
        """A new trainer goes on with the same errand: sequences begin anew."""
        self._newest = 0
        if self._running is not None:
            self._running = self._running._replace(newest=0)

    def committed(self, sequence: int) -> None:
        """A checkpoint has come."""
        self._new += 1
        self._newest = sequence

    @property
    def is_open(self) -> bool:
        """Whether there is something to look at now and then."""
        return self._running is not None or (self._new >= self.errand.checkpoints and not self._is_given_up)

    @property
    def _is_given_up(self) -> bool:
        return self.errand.gently and self._failures > 0

    def look(self, *, idle: bool) -> None:
        """Begin if it is time, and see to a round that has ended.

        Parameters
        ----------
        idle : bool
            Nothing is being made durable. What is done gently waits for that; of saves that follow one
            another without a pause it never comes, and the mirror must not wait for ever.
        """
        self._collect()
        is_time = (idle or not self.errand.gently) and time.monotonic() >= self._not_before
        if is_time and self.is_open and self._running is None:
            self._begin(last_seconds=0.0)

    def end(self) -> None:
        """Nobody trains any more: what is left is done by a process that outlives this one."""
        self._collect()
        if self._running is not None and not self.errand.gently:
            self._stop(self._running)  # it may be half way through what was there when it began
        if self._new and not self._is_given_up:
            self._begin(last_seconds=0.0 if self.errand.gently else LAST_SECONDS)

    def _stop(self, running: _Round) -> None:
        with suppress(ProcessLookupError), running.said:
            os.killpg(running.process.pid, signal.SIGKILL)  # the command that it runs, too
        running.process.wait()
        self._running, self._new = None, self._new + running.checkpoints

    def _begin(self, *, last_seconds: float) -> None:
        if not last_seconds and available_bytes() < self.errand.need_bytes + SPARE_BYTES:
            if not self.errand.gently:  # what is done gently waits, and is missed by nobody
                self._failed("there is too little memory to do it beside training")
            return
        said = tempfile.TemporaryFile()  # noqa: SIM115  # until it has ended
        try:
            process = _started(self.errand.commands, last_seconds, said)
        except OSError as error:
            said.close()
            self._failed(str(error))
            return
        if self.errand.gently:
            _give_way(process.pid)
        self._running, self._new = _Round(process, said, self._new, self._newest, time.monotonic()), 0

    def _collect(self) -> None:
        if self._running is None or self._running.process.poll() is None:
            return
        ended, self._running = self._running, None
        with ended.said as said:
            said.seek(0)
            text = said.read().decode(errors="replace")
        code, mirror = ended.process.returncode, self.errand.uploads_to
        left = code == LEFT_DAMAGED
        if code and not left:
            self._new += ended.checkpoints
            self._failed(_why(text, code))
            return
        why_left = _why(text, code) if left else ""
        if why_left not in ("", self._left):
            self._tell(Told(f"{mirror} has all but what is damaged here: {why_left}"))
        self._left = why_left
        if mirror is not None:
            self._tell(Uploaded(ended.newest, mirror))
            took_seconds = time.monotonic() - ended.began_seconds
            self._emit(events.Uploaded(self.errand.run, mirror, ended.checkpoints, self._new, took_seconds))
        if self._failures:
            self._failures = 0
            self._tell(Told(f"{self.errand.commands[0][0]} works again."))

    def _failed(self, why: str) -> None:
        if not self._failures:
            self._tell(Told(f"{self.errand.failing}: {why}"))
        pause_seconds = PAUSES_SECONDS[min(self._failures, len(PAUSES_SECONDS) - 1)]
        self._not_before = time.monotonic() + pause_seconds
        self._failures += 1
        if (mirror := self.errand.uploads_to) is not None:
            self._emit(events.UploadFailed(self.errand.run, mirror, why, self._new, self._failures))


def _why(said: str, code: int) -> str:
    """What was left out, if that is all that is wrong; else the error."""
    return (code in (LEFT_DAMAGED, NEWEST_LEFT) and not_brought(said)) or last_error(said, code)


def _started(
    commands: Sequence[Sequence[str]], last_seconds: float, said: IO[bytes]
) -> subprocess.Popen[bytes]:
    return subprocess.Popen(
        [sys.executable, "-P", "-c", _RUNNER, json.dumps(commands), str(last_seconds)],
        stdin=subprocess.DEVNULL,
        stdout=subprocess.DEVNULL,
        stderr=said,
        env=environment(),
        start_new_session=True,
    )


def _give_way(pid: int) -> None:
    """Let it have what others leave of one core, and the disk likewise.

    Not the scheduler's idle class: beside training that leaves nothing it would hold its memory for ever.
    """
    with suppress(OSError, psutil.Error, AttributeError):
        os.sched_setaffinity(pid, {max(os.sched_getaffinity(pid))})
        os.setpriority(os.PRIO_PROCESS, pid, 19)
        psutil.Process(pid).ionice(psutil.IOPRIO_CLASS_IDLE)
