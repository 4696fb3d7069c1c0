"""Passes over loaders of map-style datasets: only indices are drawn again, no sample is loaded."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterator
from functools import partial
from typing import Any

from holdfast.frameworks.data import packed
from holdfast.frameworks.data.draws import Draws
from holdfast.frameworks.data.held import Held
from holdfast.frameworks.data.marked import Mark, Seeder
from holdfast.frameworks.data.own_state import watched

_DATA = frozenset({"dataset", "data_source"})


class MapPass:
    """One pass over a map-style loader; see `LoaderPass`."""

    def __init__(self, loader: MapLoader, draws: Draws, number: int, begin: bytes | None) -> None:
        self.inexact: str | None = None
        self._loader = loader
        self._draws = draws
        self._number = number
        self._batches: Iterator[Any] = iter(())
        self._begin = begin
        self._open = False

    @property
    def delivered(self) -> int:
        return self._draws.delivered

    @property
    def samples(self) -> int:
        return self._draws.samples

    def open(self, batches: Iterator[Any]) -> None:
        """Batches for the draws that follow."""
        self._batches = batches
        self._open = True

    def __iter__(self) -> Iterator[Any]:
        return self

    def __next__(self) -> Any:
        try:
            batch = next(self._batches)
        except StopIteration:
            self._finish(exhausted=True)
            raise
        except BaseException:
            self._draws.lose()
            raise
        self._draws.deliver()
        return batch

    def state(self) -> dict[str, Any]:
        draws, loader = self._draws, self._loader
        return {
            "kind": "map",
            "number": self._number,
            "delivered": draws.delivered,
            "samples": draws.samples,
            "check": draws.check(),
            "ahead": draws.ahead(),
            "held": loader.held.state(),
            "sampler": loader.sampler_states(self._begin, draws),
            "data": loader.data.state() if loader.data else {},
        }

    def _finish(self, *, exhausted: bool) -> None:
        if self._open:
            self._open = False
            self._batches = iter(())
            self._loader.finished(exhausted=exhausted)

    def close(self) -> None:
        self._finish(exhausted=False)


class MapLoader(ABC):
    """Positions a loader of a map-style dataset; see `PositionedLoader`.

    Parameters
    ----------
    dataset : object
        The user's.
    sampler : object
        Gives batches of indices, or indices where the loader does not batch.
    batched : bool
        Which of the two.
    workers : int
        Data worker processes; 0 loads in this process.
    seeders : tuple of Seeder
        Of the loader's framework.
    known : frozenset of str
        Modules of samplers that draw from global generators at their first batch only.
    """

    def __init__(
        self,
        dataset: Any,
        sampler: Any,
        *,
        batched: bool,
        workers: int,
        seeders: tuple[Seeder, ...],
        known: frozenset[str],
    ) -> None:
        self._dataset = dataset
        self._sampler = sampler
        self._batched = batched
        self._workers = workers
        self._seeders = seeders
        chain = list(_chain(sampler))
        self._private = None if all(type(s).__module__ in known for s in chain) else seeders
        self._stateful = next((s for s in chain if keeps_state(s) and type(s).__module__ not in known), None)
        self._own = None if self._stateful is None else watched(self._stateful)
        self.held = Held(sampler, _DATA)
        self.data = None if workers else Held(dataset, attributes=False)

    @abstractmethod
    def open(self, draws: Draws, first: Mark) -> Iterator[Any]:
        """Load the batches of ``draws``, in order."""

    @abstractmethod
    def batch_size(self) -> int | None:
        """Samples in a full batch, where fixed."""

    def finished(self, *, exhausted: bool) -> None:
        """The pass is over, or was given up."""
        self.held.end()
        if self._own:
            self._own.end()
        if self.data:
            self.data.end()

    def left(self, saved: dict[str, Any]) -> dict[str, Any]:
        """See `PositionedLoader.left`."""
        return saved | {"held": self.held.state(), "data": self.data.state() if self.data else {}}

    def batches(self) -> int | None:
        try:
            return len(self._sampler)
        except (TypeError, NotImplementedError, AttributeError):  # Paddle's weighted one, given a list
            return None

    def facts(self) -> dict[str, Any]:
        try:
            length = len(self._dataset)
        except (TypeError, NotImplementedError):
            length = None
        return {
            "batch_size": self.batch_size(),
            "dataset length": length,
            "sampler": type(self._sampler).__name__,
            "data workers": "some" if self._workers else "none",
        }

    def sampler_state(self) -> bytes | None:
        """State of a sampler that keeps its own."""
        return None if self._stateful is None else _pack(self._stateful)

    def sampler_states(self, begin: bytes | None, draws: Draws) -> dict[str, Any]:
        """All that is kept of such a sampler."""
        size, last = self.batch_size(), draws.last
        short = last is not None and size is not None and last.samples < size
        # asked for a whole batch, a sampler that gave a part has already begun anew
        ended = short and self._stateful is not None and self._stateful is not self._sampler
        script = self._own.script() if self._own else None
        return {
            "begin": begin,
            "after": draws.after,
            "ended": ended,
            "now": self.sampler_state(),
            "script": script,
        }

    def start(self, *, seed: int, number: int, saved: dict[str, Any] | None) -> MapPass:
        resumes = saved is not None and saved["number"] == number
        if saved is not None:
            self._return_to(saved, resumes=resumes)
        self.held.begin()
        if self._own:
            self._own.begin()
        if self.data:
            self.data.begin()
        begin = saved["sampler"]["begin"] if resumes and saved else self.sampler_state()
        first = Mark(seed, number, 0)
        ended = resumes and saved is not None and saved["sampler"]["ended"]
        indices = iter(()) if ended else iter(self._sampler)
        # nothing here may lead back to this loader: workers must end when it goes, not when cycles are swept
        samples = len if self._batched else _one
        state = None if self._stateful is None else partial(_pack, self._stateful)
        draws = Draws(indices, first, samples, self._private, state)
        begun = MapPass(self, draws, number, begin)
        if resumes and saved:
            begun.inexact = self._advance(draws, saved)
        if draws.prime():
            begun.open(self.open(draws, first))
        else:
            self.finished(exhausted=True)
        if resumes and saved and self.data:
            self.data.latest(saved["data"])
        if saved and self.data:
            begun.inexact = begun.inexact or self.data.lacks(saved["data"])
        return begun

    def _return_to(self, saved: dict[str, Any], *, resumes: bool) -> None:
        sampler = saved["sampler"]
        script = sampler.get("script")
        if resumes:
            self.held.resume(saved["held"])
            state = sampler["begin"] if sampler["after"] is None else sampler["after"]
        else:
            self.held.carry(saved["held"])
            state = sampler["now"]
            if self.data:
                self.data.carry(saved["data"])
        if self._own is not None and state is not None:
            (self._own.resume if resumes else self._own.carry)(state, script)

    def _advance(self, draws: Draws, saved: dict[str, Any]) -> str | None:
        if self._stateful is not None and saved["sampler"]["after"] is not None:
            draws.jump(saved["delivered"], saved["samples"], saved["sampler"]["after"])
            return None
        whole = draws.skip(saved["samples"])
        if draws.cut:
            return None
        same = draws.delivered == saved["delivered"] and draws.check() == saved["check"]
        if whole and same and "ahead" in saved:  # not in what earlier versions wrote
            same = draws.draw_ahead(saved["ahead"])
            self.held.share(saved["held"])
        return None if whole and same else "the sampler gives other samples than it did before"


def keeps_state(value: Any) -> bool:
    """Whether an object has ``state_dict`` and ``load_state_dict``."""
    return callable(getattr(value, "state_dict", None)) and callable(getattr(value, "load_state_dict", None))


def _pack(sampler: Any) -> bytes:
    return packed.pack(sampler.state_dict(), "the sampler's state")


def _one(index: Any) -> int:  # noqa: ARG001 - a loader that does not batch asks for one sample at a time
    return 1


def _chain(sampler: Any) -> Iterator[Any]:
    """A sampler and those it draws from, outermost first."""
    seen: set[int] = set()
    while sampler is not None and id(sampler) not in seen and not isinstance(sampler, list | tuple | range):
        seen.add(id(sampler))
        yield sampler
        sampler = getattr(sampler, "sampler", getattr(sampler, "batch_sampler", None))
