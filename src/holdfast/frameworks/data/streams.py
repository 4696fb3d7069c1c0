"""Passes over loaders of iterable datasets that keep their own state.

Workers run ahead, so the dataset's state after each batch travels with the batch. A resumed
worker loads the state of its last delivered batch; workers whose turn comes later in the
round than the first one's wait out one turn with a placeholder, so the order stays.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

import numpy as np

from holdfast.errors import UnsupportedError
from holdfast.frameworks.data import packed
from holdfast.frameworks.data.held import Held
from holdfast.frameworks.data.marked import Mark, Seeder, Seeding
from holdfast.frameworks.data.own_state import watched
from holdfast.frameworks.data.passes import keeps_state

_PLACEHOLDER = object()
_FRESH = [0, None, False, False]
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


class Start(NamedTuple):
    """How one worker begins.

    Attributes
    ----------
    state : object
        Of its dataset; None for what it is now.
    delivered : int
        Batches of this pass, by this worker.
    waits : bool
        It gives a placeholder first, as its turn comes later.
    ended : bool
        It has delivered all of this pass.
    drains : bool
        It has delivered all of an earlier pass, but not come to its end.
    """

    state: Any
    delivered: int
    waits: bool = False
    ended: bool = False
    drains: bool = False


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
            if start.ended:
                return
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
            self.dataset.load_state_dict(start.state)
        if start.drains:
            for _ in self.dataset:
                pass
        self.count = start.delivered
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
            return [np.zeros(1), worker, 0, 0, b""]  # Paddle's reader wants an array in every batch
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
        self.positions: dict[int, list[Any]] = {}  # by worker: [batches, state, ended, of an earlier pass]
        self._last: int | None = saved["last"] if saved else None
        self._finished = bool(saved and saved["finished"])
        self._loader = loader
        self._number = number
        self._batches: Iterator[Any] | None = None

    def is_over(self) -> bool:
        """Whether nothing follows: it came to its end, or one process has given its last batch."""
        return self._finished or (self._loader.workers == 0 and any(p[2] for p in self.positions.values()))

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
                # a short batch: the dataset came to its end while it was gathered
                self.positions[worker] = [count, state, samples < self._loader.size, False]
                self.delivered += 1
                self.samples += samples
                return batch
        self._finished = self._finished or self.is_over()
        raise StopIteration

    def state(self) -> dict[str, Any]:
        return {
            "kind": "stream",
            "number": self._number,
            "delivered": self.delivered,
            "samples": self.samples,
            "finished": self._finished,
            "last": self._last,
            "positions": self.positions or None,
            **self._loader.own_state(),
        }

    def close(self) -> None:
        if self._batches is not None:
            self._batches = None
            self._loader.finished(self.positions if self._finished else None)


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
        self.size = size
        self.workers = workers
        self._keeps_workers = keeps_workers
        self._kept: dict[int, list[Any]] = {}
        self._data = None if workers else Held(dataset, attributes=False)
        self._own = watched(dataset)

    @abstractmethod
    def open(self, first: Mark, starts: list[Start]) -> Iterator[Any]:
        """Load batches; with workers, each begins as ``starts`` says."""

    @abstractmethod
    def batches(self) -> int | None: ...

    def finished(self, positions: dict[int, list[Any]] | None) -> None:
        """The pass is over, or was given up (None)."""
        self._kept = self._earlier(positions) if positions is not None else {}
        if not self.workers:
            self._own.end()

    def left(self, saved: dict[str, Any]) -> dict[str, Any]:
        """See `PositionedLoader.left`."""
        return saved | ({"data": self._data.state()} if self._data else {})

    def facts(self) -> dict[str, Any]:
        return {"batch_size": self.size, "num_workers": self.workers}

    def own_state(self) -> dict[str, Any]:
        """State of a dataset that this process iterates."""
        if self._data is None:
            return {"dataset": None, "data": {}, "workers": self.workers}
        state = packed.pack(self._dataset.state_dict(), "the dataset's state")
        script = self._own.script()
        return {"dataset": state, "data": self._data.state(), "workers": 0, "script": script}

    def start(self, *, seed: int, number: int, saved: dict[str, Any] | None) -> StreamPass:
        if saved is not None and saved["workers"] != self.workers:
            raise UnsupportedError(
                f"The data position was kept by {saved['workers']} data workers, each with a part of the "
                f"iterable dataset; there are {self.workers} now.",
                do=f"Set num_workers={saved['workers']} again.",
            )
        resumes = saved is not None and saved["number"] == number
        begun = StreamPass(self, number, saved if resumes else None)
        begun.positions = self._positions(saved, resumes=resumes)
        if saved is not None and self._data is not None:
            (self._own.resume if resumes else self._own.carry)(saved["dataset"], saved.get("script"))
            (self._data.latest if resumes else self._data.carry)(saved["data"])
            begun.inexact = self._data.lacks(saved["data"])
        if not self.workers:
            self._own.begin()
        if resumes and begun.is_over():
            return begun
        if saved is not None and not resumes and self._keeps_workers and not saved["finished"]:
            begun.inexact = "the workers' copies of the dataset were left in the middle of the last pass"
        last = saved["last"] if resumes and saved else None
        starts = self._starts(begun.positions, last) if saved is not None and self.workers else []
        begun.open(self.open(Mark(seed, number, 0), starts))
        return begun

    def _positions(self, saved: dict[str, Any] | None, *, resumes: bool) -> dict[int, list[Any]]:
        if saved is None:
            return dict(self._kept)
        positions = dict(saved["positions"] or {})
        return positions if resumes else self._earlier(positions)

    def _earlier(self, positions: dict[int, list[Any]]) -> dict[int, list[Any]]:
        """Where the workers stand that live on after a pass."""
        if not self._keeps_workers:
            return {}
        return {w: [0, *positions.get(w, _FRESH)[1:3], True] for w in range(self.workers)}

    def _starts(self, positions: dict[int, list[Any]], last: int | None) -> list[Start]:
        starts = []
        for worker in range(self.workers):
            count, state, ended, earlier = positions.get(worker, _FRESH)
            waits = last is not None and worker <= last
            # unpacked here: it imports, which can hang in a child of a process with threads
            own = None if state is None else packed.unpack(state)
            starts.append(Start(own, count, waits, ended and not earlier, earlier and not ended))
        return starts
