"""Launches of somebody's script that save to a place of a drill's own."""

from __future__ import annotations

import os
import signal
import time
from pathlib import Path

import msgspec

from holdfast.drill.comparing import Made, made
from holdfast.errors import HoldfastError, NotFoundError
from holdfast.node import groups
from holdfast.node.groups import Group, started
from holdfast.node.pulse import PLACE_VARIABLE, Page, Phase, Seen
from holdfast.repository.repository import Repository
from holdfast.storage.urls import open_storage
from holdfast.training.overrides import VARIABLE, Overrides

LOOK_SECONDS = 0.002
EVERY_STEP = "every 1 step"
_SAID = 2000
_MEMORY_SECONDS = "60"
"""A killed trainer's memory is held for the next launch, which comes at once."""


class Script(msgspec.Struct, frozen=True, kw_only=True):
    """What is run.

    Attributes
    ----------
    folder : str
        Where its trainings save and print.
    patience_seconds : float
        Without any progress for so long, it is given up.
    """

    command: tuple[str, ...]
    folder: str
    patience_seconds: float = 600.0


class Scratch:
    """Where one training of a script saves and prints, whatever it names itself."""

    def __init__(self, script: Script, name: str) -> None:
        self.place = Path(script.folder) / name
        self.log = Path(script.folder) / f"{name}.log"

    @property
    def repository(self) -> Repository:
        try:
            return Repository.open(open_storage(self.place))
        except NotFoundError:
            raise nothing_saved() from None

    @property
    def said(self) -> str:
        """The end of what was printed."""
        return self.log.read_text(errors="replace")[-_SAID:]

    def variables(self, save: str = EVERY_STEP, mirror: str | None = None) -> dict[str, str]:
        """The environment of its launches; no supervisor of this process looks at them."""
        overrides = Overrides(
            repository=str(self.place), save=save, keep="all", on_finding="warn", mirror=mirror
        )
        own = {k: v for k, v in os.environ.items() if k != PLACE_VARIABLE}
        return {"HOLDFAST_MEMORY_SECONDS": _MEMORY_SECONDS} | own | {VARIABLE: overrides.encoded()}


class Patience:
    """Ends a wait for what makes no progress."""

    def __init__(self, script: Script, scratch: Scratch) -> None:
        self._seconds = script.patience_seconds
        self._scratch = scratch
        self._last: object = None
        self._moved_at = time.monotonic()

    def look(self, progress: object) -> None:
        """Take note of what may have changed.

        Raises
        ------
        HoldfastError
            It has not for too long.
        """
        now = time.monotonic()
        if progress != self._last:
            self._last, self._moved_at = progress, now
        if now - self._moved_at > self._seconds:
            said = self._scratch.said
            raise HoldfastError(f"The script made no progress for {self._seconds:g} s:\n{said}")


class Training:
    """Launches of the same command that save every step to one place.

    Attributes
    ----------
    step : int
        That at which the last launch was seen last.
    start_seconds, seconds : float
        Of the last launch: until its first step was made; all of it.
    """

    def __init__(self, script: Script, name: str) -> None:
        self._script = script
        self.scratch = Scratch(script, name)
        self.step = 0
        self.start_seconds = self.seconds = 0.0

    def launch(self, kill_at: int | None = None, delay: float = 0.0) -> int:
        """Start it, kill it at a step (``delay`` of a step's time later), and return its exit code."""
        page, began = Page(), time.monotonic()
        variables = self.scratch.variables() | {PLACE_VARIABLE: page.place}
        with self.scratch.log.open("ab") as log:
            group = started(self._script.command, variables, log.fileno())
        try:
            return self._follow(group, page, kill_at, delay)
        finally:
            group.signal_all(signal.SIGKILL)
            _end_ranks(page)
            self._clock(page.look(), began)
            page.close()

    def _clock(self, seen: Seen, began: float) -> None:
        now = time.monotonic()
        self.start_seconds = (seen.first_step_seconds or now) - began
        self.seconds = now - began

    def _follow(self, group: Group, page: Page, kill_at: int | None, delay: float) -> int:
        patience = Patience(self._script, self.scratch)
        while (code := group.poll()) is None:
            seen = page.look()
            self.step = seen.step
            patience.look(seen.beats)
            if kill_at is not None and seen.step >= kill_at:
                time.sleep(delay * seen.longest_seconds[Phase.STEPPING])
                group.signal_all(signal.SIGKILL)
                kill_at = None
            time.sleep(LOOK_SECONDS)
        return code


def _end_ranks(page: Page) -> None:
    """Launchers put each rank into a group of its own, and it goes on without them."""
    while left := groups.given(PLACE_VARIABLE, page.place):
        for pid in left:
            groups.send(pid, signal.SIGKILL)
        time.sleep(LOOK_SECONDS)


def undisturbed(script: Script, name: str) -> dict[tuple[str, int], Made]:
    """Run it once; everything that it has saved, by run and step."""
    return launched(Training(script, name))


def launched(training: Training) -> dict[tuple[str, int], Made]:
    """Launch it, and let it come to its end; everything that it has saved, by run and step.

    Raises
    ------
    HoldfastError
        It fails although nobody disturbs it, or it saves nothing.
    """
    code = training.launch()
    if code != 0:
        raise HoldfastError(
            f"The script ends with {code} although nobody kills it; it said:\n{training.scratch.said}",
            do="Mend that first.",
        )
    found = {(m.run, m.step): m for m in made(training.scratch.repository)}
    if not found:
        raise nothing_saved()
    return found


def nothing_saved() -> NotFoundError:
    return NotFoundError(
        "The script has saved nothing.",
        do="It needs a Checkpointer around its loop, and a step() in it: the tutorial shows how.",
    )
