"""Passes over loaders of iterable datasets that keep their own state.

Workers run ahead, so the dataset's state after each batch travels with the batch. A resumed
worker loads the state of its last delivered batch; workers whose turn comes later in the
round than the first one's wait out one turn with a placeholder, so the order stays.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator
from typing import Any

from holdfast.errors import UnsupportedError
from holdfast.frameworks import packed
from holdfast.frameworks.held import Held
from holdfast.frameworks.marked import Mark, Seeder, Seeding
from holdfast.frameworks.passes import keeps_state

_PLACEHOLDER = object()
_turn: Mark | None = None  # in a worker: the batch just begun, until its first sample


class Turn:
    """What a worker is sent to ask for a batch of a stream: says of which pass when it is counted out."""

    def __init__(self, size: int, mark: Mark) -> None:
        self._size = size
        self._mark = mark

    def __len__(self) -> int:
        return self._size

    def __iter__(self) -> Iterator[int]:
        global _turn  # noqa: PLW0603 - dataset and turn meet only in the worker's fetcher
        _turn = self._mark
        return iter(range(self._size))


class Turns:
    """Turns without end."""

    def __init__(self, size: int, mark: Mark) -> None:
        self._turn = Turn(size, mark)

    def __iter__(self) -> Iterator[Turn]:
        return self

    def __next__(self) -> Turn:
        return self._turn


class Start:
    """How one worker begins: its dataset's state and count of batches, and whether it waits a turn."""

    def __init__(self, state: bytes | None, count: int, *, waits: bool = False, drains: bool = False) -> None:
        self.state = state
        self.count = count
        self.waits = waits
        self.drains = drains  # an earlier pass, already delivered whole


class Stream:
    """The user's iterable dataset as workers see it.

    Parameters
    ----------
    dataset : object
        The user's.
    size : int
        Samples asked for in a turn.
    seeders : tuple of Seeder
        Of the framework.
    identity : callable
        Number of this worker.
    starts : list of Start
        By worker, for its first pass; empty for a fresh start.
    """

    def __init__(
        self,
        dataset: Any,
        size: int,
        seeders: tuple[Seeder, ...],
        identity: Callable[[], int],
        starts: list[Start],
    ) -> None:
        self.dataset = dataset
        self.count = 0
        self.identity = identity
        self._size = size
        self._seeding = Seeding(dataset, seeders)
        self._starts = starts

    def __iter__(self) -> Iterator[Any]:
        self.count = 0
        if self._starts:
            start, self._starts = self._starts[self.identity()], []
            yield from self._begin(start)
        self._seed()  # the dataset's own iter() may draw
        samples = iter(self.dataset)
        while True:
            self._seed()
            try:
                sample = next(samples)
            except StopIteration:
                return
            yield sample

    def _begin(self, start: Start) -> Iterator[Any]:
        if start.state is not None:
            self.dataset.load_state_dict(packed.unpack(start.state))
        if start.drains:
            for _ in self.dataset:
                pass
        self.count = start.count
        if start.waits:
            yield from [_PLACEHOLDER] * self._size

    def _seed(self) -> None:
        global _turn  # noqa: PLW0603
        if _turn is not None:
            worker = self.identity() << 40  # streams of workers never meet
            self._seeding(_turn._replace(batch=worker + self.count))
            _turn = None


class Carrying:
    """Collates a batch and sends the dataset's state along: ``[batch, worker, count, samples, state]``."""

    def __init__(self, collate: Callable[[Any], Any], stream: Stream) -> None:
        self._collate = collate
        self._stream = stream

    def __call__(self, samples: list[Any]) -> list[Any]:
        stream = self._stream
        worker = stream.identity()
        if samples[0] is _PLACEHOLDER:
            return ["placeholder", worker, 0, 0, b""]
        stream.count += 1
        batch = self._collate(samples)
        state = packed.pack(stream.dataset.state_dict(), "the dataset's state")
        return [batch, worker, stream.count, len(samples), state]


class Counting:
    """Collates a batch loaded in this process and says how many samples it holds."""

    def __init__(self, collate: Callable[[Any], Any]) -> None:
        self._collate = collate

    def __call__(self, samples: list[Any]) -> list[Any]:
        return [self._collate(samples), 0, 0, len(samples), b""]


class StreamPass:
    """One pass over an iterable dataset; see `LoaderPass`."""

    def __init__(self, loader: StreamLoader, number: int, saved: dict[str, Any] | None) -> None:
        self.inexact: str | None = None
        self.delivered = saved["delivered"] if saved else 0
        self.samples = saved["samples"] if saved else 0
        self._positions: dict[int, list[Any]] = dict(saved["positions"]) if saved else {}
        self._last: int | None = saved["last"] if saved else None
        self._finished = bool(saved and saved["finished"])
        self._loader = loader
        self._number = number
        self._batches: Iterator[Any] | None = None

    def open(self, batches: Iterator[Any]) -> None:
        """Begin to take batches from here."""
        self._batches = batches

    def __iter__(self) -> Iterator[Any]:
        return self

    def __next__(self) -> Any:
        while self._batches is not None:
            try:
                batch, worker, count, samples, state = next(self._batches)
            except StopIteration:
                self._finished = True
                self.close()
                break
            if samples:
                self._last = worker
                self._positions[worker] = [count, state]
                self.delivered += 1
                self.samples += samples
                return batch
        raise StopIteration

    def state(self) -> dict[str, Any]:
        return {
            "kind": "stream",
            "number": self._number,
            "delivered": self.delivered,
            "samples": self.samples,
            "finished": self._finished,
            "last": self._last,
            "positions": self._positions or None,
            **self._loader.own_state(),
        }

    def close(self) -> None:
        if self._batches is not None:
            self._batches = None
            self._loader.finished(exhausted=self._finished)


class StreamLoader(ABC):
    """Positions a loader of an iterable dataset; see `PositionedLoader`.

    Parameters
    ----------
    dataset : object
        The user's; keeps its own state.
    size : int
        Samples of a batch.
    workers : int
        Data worker processes; 0 loads in this process.
    keeps_workers : bool
        Whether they outlive a pass.
    """

    def __init__(self, dataset: Any, *, size: int, workers: int, keeps_workers: bool) -> None:
        if not keeps_state(dataset):
            raise UnsupportedError(
                f"The position in the iterable dataset {type(dataset).__name__} cannot be kept: "
                "it has no state_dict() and load_state_dict().",
                do="Give it both, or use a map-style dataset.",
            )
        self._dataset = dataset
        self._size = size
        self._workers = workers
        self._keeps_workers = keeps_workers
        self._data = None if workers else Held(dataset, attributes=False)

    @abstractmethod
    def open(self, first: Mark, starts: list[Start]) -> Iterator[Any]:
        """Load batches; with workers, each begins as ``starts`` says."""

    @abstractmethod
    def batches(self) -> int | None: ...

    def finished(self, *, exhausted: bool) -> None:  # noqa: B027 - most have nothing to do
        """The pass is over, or was given up."""

    def facts(self) -> dict[str, Any]:
        return {"batch_size": self._size, "num_workers": self._workers}

    def own_state(self) -> dict[str, Any]:
        """State of a dataset that this process iterates."""
        if self._data is None:
            return {"dataset": None, "data": {}, "workers": self._workers}
        state = packed.pack(self._dataset.state_dict(), "the dataset's state")
        return {"dataset": state, "data": self._data.state(), "workers": 0}

    def start(self, *, seed: int, number: int, saved: dict[str, Any] | None) -> StreamPass:
        if saved is not None and saved["workers"] != self._workers:
            raise UnsupportedError(
                f"The data position was kept by {saved['workers']} data workers, each with a part of the "
                f"iterable dataset; there are {self._workers} now.",
                do=f"Set num_workers={saved['workers']} again.",
            )
        resumes = saved is not None and saved["number"] == number
        if saved is not None:
            saved = {**saved, "positions": saved["positions"] or {}}
            if self._data is not None:
                self._dataset.load_state_dict(packed.unpack(saved["dataset"]))
                self._data.latest(saved["data"])
        begun = StreamPass(self, number, saved if resumes else None)
        if resumes and saved and saved["finished"]:
            return begun
        begun.open(self.open(Mark(seed, number, 0), self._starts(saved, begun, resumes=resumes)))
        return begun

    def _starts(self, saved: dict[str, Any] | None, begun: StreamPass, *, resumes: bool) -> list[Start]:
        if saved is None or not self._workers or not (resumes or self._keeps_workers):
            return []
        if not resumes and not saved["finished"]:
            begun.inexact = "the workers' copies of the dataset were left in the middle of the last pass"
            return []
        last = saved["last"] if resumes else None
        starts = []
        for worker in range(self._workers):
            count, state = saved["positions"].get(worker, [0, None])
            waits = last is not None and worker <= last
            starts.append(Start(state, count if resumes else 0, waits=waits, drains=not resumes))
        return starts
