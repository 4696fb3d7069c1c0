"""What tortured processes know of each other: repositories, the runs' lines, and facts that outlive kills."""

from __future__ import annotations

import os
import random
import shutil
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

import msgspec

from torture_model import Line


class Fact(msgspec.Struct, frozen=True, omit_defaults=True):
    """Something about a run that was so before its writer went on, or (``leaving``, ``untagged``) was begun.

    Attributes
    ----------
    durable : int or None
        This step was reported durable.
    tagged, untagged : str or None
        A name; given to ``durable``, or about to be taken away.
    leaving : bool
        The run is about to be renamed or removed.
    """

    durable: int | None = None
    tagged: str | None = None
    untagged: str | None = None
    leaving: bool = False


class Promises(msgspec.Struct, frozen=True):
    """What must be there of a run, by its facts."""

    newest: int
    every: frozenset[int]
    tagged: dict[str, int]
    leaving: bool

    @classmethod
    def of(cls, facts: Iterable[Fact]) -> Promises:
        facts = list(facts)
        steps = frozenset(f.durable for f in facts if f.durable is not None)
        gone = {f.untagged for f in facts}
        tagged = {f.tagged: f.durable for f in facts if f.tagged is not None and f.durable is not None}
        kept = {tag: step for tag, step in tagged.items() if tag not in gone}
        return cls(max(steps, default=0), steps, kept, any(f.leaving for f in facts))


@dataclass(frozen=True)
class World:
    """A folder that holds all of it."""

    folder: Path
    names: ClassVar[tuple[str, ...]] = ("first", "second", "third")

    @property
    def places(self) -> list[str]:
        """Of the repository that is trained in, of its copy, and of the copy's copy."""
        return [str(self.folder / name) for name in self.names]

    @property
    def runs(self) -> list[str]:
        """All that ever were, and a few that were to be."""
        return [path.name.replace("~", "/") for path in (self.folder / "lines").iterdir()]

    # -- lines -------------------------------------------------------------------------

    def line(self, run: str) -> Line:
        return msgspec.json.decode(self._line(run).read_bytes(), type=Line)

    def put_line(self, run: str, line: Line) -> None:
        """Before the run can be seen by anybody."""
        path = self._line(run)
        path.parent.mkdir(parents=True, exist_ok=True)
        draft = self.folder / f"line-{os.getpid()}"
        draft.write_bytes(msgspec.json.encode(line))
        draft.replace(path)

    def _line(self, run: str) -> Path:
        return self.folder / "lines" / _flat(run)

    # -- facts -------------------------------------------------------------------------

    def report(self, run: str, fact: Fact) -> None:
        """On the disk on return."""
        folder = self.folder / "facts" / _flat(run)
        folder.mkdir(parents=True, exist_ok=True)
        descriptor = os.open(folder / f"{os.getpid()}", os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o600)
        try:
            os.write(descriptor, msgspec.json.encode(fact) + b"\n")
            os.fsync(descriptor)
        finally:
            os.close(descriptor)

    def promises(self, run: str) -> Promises:
        folder = self.folder / "facts" / _flat(run)
        files = sorted(folder.iterdir()) if folder.exists() else []
        whole = (line for file in files for line in file.read_bytes().split(b"\n")[:-1])
        return Promises.of(msgspec.json.decode(line, type=Fact) for line in whole)

    def renamed(self, run: str, new: str) -> None:
        """What was promised of a run holds under its new name."""
        promises = self.promises(run)
        shutil.rmtree(self.folder / "facts" / _flat(new), ignore_errors=True)
        for step in sorted(promises.every):
            self.report(new, Fact(durable=step))
        for tag, step in promises.tagged.items():
            self.report(new, Fact(durable=step, tagged=tag))


def _flat(run: str) -> str:
    return run.replace("/", "~")


CHANCE = random.Random()
"""Of one process. Python's own generator is part of the training state."""


class WrongError(AssertionError):
    """Something is not as it must be."""


def require(condition: object, what: str) -> None:
    if not condition:
        raise WrongError(what)
