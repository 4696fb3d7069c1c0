"""What saves while something trains: each way as a context around some steps.

A way is told before each optimizer step and after it. What it does in there holds up training.
"""

from __future__ import annotations

import threading
import time
from abc import abstractmethod
from collections.abc import Mapping
from contextlib import AbstractContextManager
from pathlib import Path
from types import TracebackType
from typing import Any, Protocol, Self

import numpy as np
from measure import make_durable

import holdfast

KEPT = 2
"""Checkpoints that each way keeps."""


class Learner(Protocol):
    """A model, its optimizer and its data; one step in two halves, so that saving can come between."""

    def learn(self) -> None:
        """Forward and backward."""

    def step(self) -> None:
        """Change the parameters."""

    @property
    def state(self) -> dict[str, Any]:
        """What Holdfast is given."""

    def arrays(self) -> dict[str, np.ndarray]:
        """All that is saved, by name, as it is now: perhaps no copy. After the first step."""


class Way(AbstractContextManager["Way"]):
    """Saves nothing.

    Attributes
    ----------
    durable_seconds : list of float
        From the beginning of each save to its durability.
    """

    def __init__(self, trainer: Learner, folder: Path) -> None:
        self.trainer = trainer
        self.folder = folder
        self.durable_seconds: list[float] = []

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        return None

    def before_step(self) -> None:
        """The optimizer is about to change what may still be being copied."""

    def after_step(self, *, due: bool) -> None:
        """A place to save: ``due`` says that it is time."""

    def finish(self) -> None:
        """Wait until every save is durable."""

    def saved(self) -> Mapping[str, np.ndarray] | None:
        """What the newest checkpoint holds, named as by ``Learner.arrays``; None: nobody looks."""
        return None


class Holdfast(Way):
    """A Checkpointer without its loops."""

    background = False

    def __enter__(self) -> Self:
        self._open: list[tuple[float, holdfast.Save]] = []
        self._checkpointer = holdfast.Checkpointer(
            self.folder,
            self.trainer.state,
            save=None,
            keep=f"last {KEPT}",
            signals=False,
            background=self.background,
        )
        self._checkpointer.__enter__()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._checkpointer.__exit__(kind, error, trace)

    def after_step(self, *, due: bool) -> None:
        self._checkpointer.step()
        if due:
            self._save()
        self._learn()

    def _save(self) -> None:
        started = time.perf_counter()
        self._checkpointer.save().wait_durable()
        self.durable_seconds.append(time.perf_counter() - started)

    def _learn(self) -> None:
        """Look at what became of earlier saves."""


class HoldfastBackground(Holdfast):
    background = True

    def before_step(self) -> None:
        """What the optimizer's hook does otherwise: here the wait can be told from the step."""
        self._checkpointer._entered._saver.before_step()

    def _save(self) -> None:
        begun = time.time()
        self._open.append((begun, self._checkpointer.save()))

    def finish(self) -> None:
        for _, save in self._open:
            save.wait_durable()
        self._learn()

    def _learn(self) -> None:
        """The trainer hears of a save at a later step; when it was made durable is read from its manifest."""
        for begun, save in [pair for pair in self._open if pair[1].done]:
            self._open.remove((begun, save))
            manifest = f"runs/main/checkpoints/{save.wait_durable()}.manifest"
            self.durable_seconds.append((self.folder / manifest).stat().st_ctime - begun)


class Blocking(Way):
    """Saves, and makes durable what was saved, while training waits."""

    def after_step(self, *, due: bool) -> None:
        if due:
            started = time.perf_counter()
            self._save(self.folder / str(len(self.durable_seconds) % KEPT))
            self.durable_seconds.append(time.perf_counter() - started)

    @abstractmethod
    def _save(self, path: Path) -> None: ...


class Waited(Way):
    """Begins a save; a thread waits for its end and makes it durable. A save waits for the one before it."""

    def __enter__(self) -> Self:
        self._waiter: threading.Thread | None = None
        self._error: Exception | None = None
        self._saves = 0
        return self

    def after_step(self, *, due: bool) -> None:
        if due:
            started = time.perf_counter()
            self.finish()
            path = self._begin(self._saves)
            self._saves += 1
            self._waiter = threading.Thread(target=self._follow, args=(path, started))
            self._waiter.start()

    def finish(self) -> None:
        if self._waiter is not None:
            self._waiter.join()
            self._waiter = None
        if self._error is not None:
            raise self._error

    def _follow(self, path: Path, started: float) -> None:
        try:
            self._wait()
            make_durable(path)
            self.durable_seconds.append(time.perf_counter() - started)
        except Exception as error:
            self._error = error

    @abstractmethod
    def _begin(self, number: int) -> Path:
        """Begin the save of that number, into the folder that is returned."""

    @abstractmethod
    def _wait(self) -> None:
        """Until all is written."""
