"""What is in a repository, as objects to look at and load from."""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator
from typing import Any

from holdfast.domain import tree
from holdfast.domain.manifest import Manifest, Summary
from holdfast.domain.names import CheckpointId
from holdfast.errors import DamagedError, NotFoundError
from holdfast.repository.forking import fork
from holdfast.repository.repository import Repository
from holdfast.repository.run import Run
from holdfast.repository.summaries import Summaries
from holdfast.repository.verify import Verifier
from holdfast.storage.urls import open_storage
from holdfast.training import console
from holdfast.training.arguments import check_state
from holdfast.training.claiming import claimed
from holdfast.training.restoring import Restorer


class Checkpoint:
    """One checkpoint of a run."""

    def __init__(
        self,
        run: Run,
        checkpoint: CheckpointId,
        manifest: Manifest | None = None,
        *,
        beside: Summaries | None = None,
    ) -> None:
        self._run = run
        self._id = checkpoint
        self._manifest = manifest
        self._beside = beside or Summaries(run, [checkpoint])
        self._summary: Summary | None = manifest.summary if manifest is not None else None

    def __repr__(self) -> str:
        return f"<Checkpoint {self._run.name}@{self.step} ({self.kind})>"

    @property
    def id(self) -> str:
        """Its full name in the repository."""
        return str(self._id)

    @property
    def run(self) -> str:
        return self._run.name

    @property
    def step(self) -> int:
        return self._id.step

    @property
    def kind(self) -> str:
        """``full``, or ``thin``: the model only."""
        return self._id.kind

    @property
    def summary(self) -> Summary:
        """Progress, metrics, size, reason and parent."""
        if self._summary is None:
            self._summary = self._beside.of(self._id)
        return self._summary

    @property
    def metrics(self) -> dict[str, float]:
        return dict(self.summary.metrics)

    @property
    def config(self) -> dict[str, Any]:
        """The hyperparameters that were recorded."""
        given = self.manifest().details.given
        return {
            k.removeprefix("config."): tree.decode(v) for k, v in given.items() if k.startswith("config.")
        }

    def manifest(self) -> Manifest:
        """Its verified table of contents."""
        return self._manifest or self._run.manifest(self._id)

    def load(
        self, into: dict[str, Any] | None = None, *, only: str | Iterable[str] | None = None
    ) -> dict[str, Any]:
        """Load its state, verified.

        Parameters
        ----------
        into : dict, optional
            Live objects to restore in place; without it, plain values and fresh tensors.
        only : str or iterable of str, optional
            Restrict to these entries, such as ``"model"``.

        Raises
        ------
        DamagedError, MismatchError
        """
        names = _names(only)
        if into is not None:
            check_state(into)
            restorer = Restorer(self._run, into, emit=console.show)
            restorer.one(self._id, only=names)
            return into
        from holdfast.formats.reading import read_state

        return read_state(self._run, self._id, only=names)

    def export(
        self,
        path: str | os.PathLike[str],
        *,
        only: str | Iterable[str] | None = None,
        overwrite: bool = False,
    ) -> None:
        """Write it as ``.pt``, ``.safetensors``, ``.pdparams`` or a Hugging Face style folder."""
        from holdfast.formats.export import export_checkpoint

        export_checkpoint(self._run, self._id, path, only=_names(only), overwrite=overwrite)

    def fork(self, run: str) -> RunView:
        """Let a new run begin here: its first launch resumes from this checkpoint. No tensor is copied.

        Parameters
        ----------
        run : str
            A name that is free.

        Raises
        ------
        UsageError
            There is such a run, or this checkpoint is thin or rejected.
        """
        target = self._run.repository.run(run)
        with claimed(target):
            fork(self._run, self._id, run)
        return RunView(target)

    def verify(self) -> None:
        """Read every byte and check it.

        Raises
        ------
        DamagedError
            Names tensors and packs.
        """
        verdict = Verifier(self._run.repository).check(self._run, self._id)
        if verdict is None:
            raise NotFoundError(f"The checkpoint {self.run}@{self.step} is gone: retention removed it.")
        if not verdict.ok:
            raise DamagedError(f"The checkpoint {self.run}@{self.step} is damaged: {verdict.reason}")


class RunView:
    """One run: ``view.latest``, ``view[500]``, ``view["best"]``, iteration oldest first."""

    def __init__(self, run: Run) -> None:
        self._run = run

    def __repr__(self) -> str:
        return f"<Run {self.name}: {len(self)} checkpoints>"

    @property
    def name(self) -> str:
        return self._run.name

    @property
    def latest(self) -> Checkpoint:
        return self["latest"]

    def __getitem__(self, at: int | str) -> Checkpoint:
        return Checkpoint(self._run, self._run.resolve(at))

    def __iter__(self) -> Iterator[Checkpoint]:
        found = self._run.checkpoints()
        summaries = Summaries(self._run, found)
        return (Checkpoint(self._run, c, beside=summaries) for c in found)

    def __len__(self) -> int:
        return len(self._run.checkpoints())

    def best(self, monitor: str, mode: str = "min") -> Checkpoint:
        """The checkpoint with the best value of a metric."""
        return Checkpoint(self._run, self._run.resolve("best", monitor=monitor, mode=mode))

    @property
    def tags(self) -> dict[str, Checkpoint]:
        return {name: Checkpoint(self._run, c) for name, c in self._run.tags().items()}


class RepositoryView:
    """A repository: ``repo.runs()``, ``repo["digits"].latest``, ``repo.best("val_loss", "min")``."""

    def __init__(self, repository: Repository) -> None:
        self._repository = repository

    def __repr__(self) -> str:
        return f"<Repository {self._repository.storage.location}>"

    def runs(self, pattern: str = "*") -> list[RunView]:
        """Runs whose names match a shell pattern."""
        return [RunView(run) for run in self._repository.runs(pattern)]

    def __getitem__(self, name: str) -> RunView:
        run = self._repository.run(name)
        if not run.exists():
            known = ", ".join(r.name for r in self._repository.runs()) or "none"
            raise NotFoundError(
                f"There is no run {name!r} in {self._repository.storage.location}.", do=f"Its runs: {known}."
            )
        return RunView(run)

    def __contains__(self, name: str) -> bool:
        return self._repository.run(name).exists()

    def best(self, monitor: str, mode: str = "min", pattern: str = "*") -> Checkpoint:
        """The best checkpoint by a metric, across runs."""
        best: list[Checkpoint] = []
        for run in self._repository.runs(pattern):
            found = run.best(monitor, mode)
            best += [Checkpoint(run, found)] if found is not None else []
        if not best:
            raise NotFoundError(
                f"No checkpoint in {self._repository.storage.location} has a finite {monitor}."
            )
        choose = max if mode == "max" else min
        return choose(best, key=lambda c: c.metrics[monitor])


def open_repository(location: str | os.PathLike[str]) -> RepositoryView:
    """Open an existing repository to look at it and load from it; never creates one.

    Raises
    ------
    NotFoundError
    """
    return RepositoryView(Repository.open(open_storage(location)))


def _names(only: str | Iterable[str] | None) -> list[str] | None:
    if only is None:
        return None
    return [only] if isinstance(only, str) else list(only)
