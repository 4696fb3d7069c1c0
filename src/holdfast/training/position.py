"""Where a run stands in its data: one pass over a loader, resumable at any batch."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from holdfast.errors import UnsupportedError
from holdfast.frameworks import registry, rng
from holdfast.frameworks.base import LoaderPass, PositionedLoader


def positioned(loader: object) -> PositionedLoader:
    """The positioned view of anything that `batches()` takes.

    Raises
    ------
    UnsupportedError
        It cannot be positioned exactly; says the way out.
    """
    views = (framework.loader(loader) for framework in registry.active())
    return next(view for view in views if view is not None)  # the last one takes or refuses anything


class BatchPass:
    """One pass over one loader, begun by its first `iter`; batches count when delivered.

    Parameters
    ----------
    loader : object
        The user's.
    seed : int
        The run's data seed.
    number : int
        Of this pass, counted from 0 over the run.
    saved : dict, optional
        From `state`: of this pass, to go on with it, or of the last one over the same loader
        before the restore, to bring along what samplers and datasets keep between passes.
    resume_rng : dict, optional
        The global generators at the safe point that is resumed; goes with ``saved`` of this pass.

    Attributes
    ----------
    delivered, samples : int
        Batches and samples handed out in this pass, those before a resume included.
    exhausted : bool
        Whether the pass came to its end.
    inexact : str or None
        Why what follows may differ from an uninterrupted run; None where it cannot.
    """

    def __init__(
        self,
        loader: object,
        *,
        seed: int,
        number: int,
        saved: dict[str, Any] | None = None,
        resume_rng: dict[str, Any] | None = None,
    ) -> None:
        self._loader = positioned(loader)
        self._seed = seed
        self._number = number
        self._saved = saved
        self._resume_rng = resume_rng
        self._pass: LoaderPass | None = None
        self._start_rng: dict[str, Any] = {}
        self._facts = self._loader.facts()
        self.exhausted = False
        self.inexact: str | None = None

    @property
    def delivered(self) -> int:
        return self._begun().delivered

    @property
    def samples(self) -> int:
        return self._begun().samples

    def remaining(self) -> int | None:
        """Batches still to come, where known."""
        total = self._loader.batches()
        return None if total is None else max(total - self.delivered, 0)

    def __iter__(self) -> Iterator[Any]:
        self._begun()
        return self

    def __next__(self) -> Any:
        try:
            return next(self._begun())
        except StopIteration:
            self.exhausted = True
            raise

    def state(self) -> dict[str, Any]:
        """Plain values that say where the pass is: after the last batch delivered."""
        return {
            "number": self._number,
            "delivered": self.delivered,
            "samples": self.samples,
            "exhausted": self.exhausted,
            "total": self._loader.batches(),
            "facts": self._facts,
            "start_rng": self._start_rng,
            "loader": self._begun().state(),
        }

    def loader_view(self) -> PositionedLoader:
        """The positioned view of the loader, which lives as long as that."""
        return self._loader

    def keeps_own_state(self) -> bool:
        """Whether the loader, once begun, holds a generator or state that moves from pass to pass."""
        if self._pass is None:
            return False
        state = self._pass.state()
        sampler = state.get("sampler") or {}
        kept = (state.get(part) for part in ("held", "data", "own", "dataset", "positions"))
        return any(kept) or sampler.get("now") is not None

    def close(self) -> None:
        """Let go of workers; a pass left by ``break`` needs it."""
        if self._pass is not None:
            self._pass.close()

    def _begun(self) -> LoaderPass:
        if self._pass is None:
            saved, self._saved = self._saved, None
            self._pass = self._resume(saved) if self._is_mine(saved) else self._begin(saved)
        return self._pass

    def _is_mine(self, saved: dict[str, Any] | None) -> bool:
        return saved is not None and saved["number"] == self._number

    def _begin(self, saved: dict[str, Any] | None) -> LoaderPass:
        earlier = self._fitting(saved)
        self._start_rng = rng.capture_rng()
        begun = self._loader.start(seed=self._seed, number=self._number, saved=earlier)
        self.inexact = begun.inexact
        return begun

    def _resume(self, saved: dict[str, Any] | None) -> LoaderPass:
        mine = self._fitting(saved)
        assert saved is not None
        self._start_rng = saved["start_rng"]
        rng.restore_rng(self._start_rng)
        begun = self._loader.start(seed=self._seed, number=self._number, saved=mine)
        if self._resume_rng is not None:
            rng.restore_rng(self._resume_rng)
        reasons = [*self._changes(saved["facts"]), *([begun.inexact] if begun.inexact else [])]
        self.inexact = "; ".join(reasons) or None
        return begun

    def _changes(self, before: dict[str, Any]) -> list[str]:
        now = self._facts
        return [f"{k} was {v}, now {now.get(k)}" for k, v in before.items() if now.get(k) != v]

    def _fitting(self, saved: dict[str, Any] | None) -> dict[str, Any] | None:
        """The loader's own part of ``saved``, if it came from a loader of this kind."""
        if saved is None:
            return None
        if saved["facts"].keys() != self._facts.keys():
            raise UnsupportedError(
                f"The data position was kept for another kind of loader than {type(self._loader).__name__}.",
                do="Pass the kind of loader that the run was started with, or start afresh.",
            )
        state: dict[str, Any] = saved["loader"]
        return state
