"""Exact positions in `paddle.io.DataLoader`.

The user's loader is never changed: with workers a copy of it gets our batch sampler. Without
workers Paddle loads in a thread that races with the training loop for the generators, so
batches are loaded here, at the moment they are asked for.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator
from itertools import islice
from typing import Any
from weakref import WeakKeyDictionary, finalize, ref

import numpy as np
import paddle
from paddle.io.dataloader.collate import default_collate_fn, default_convert_fn

from holdfast.errors import UnsupportedError
from holdfast.frameworks.base import PositionedLoader
from holdfast.frameworks.data.draws import Draws
from holdfast.frameworks.data.marked import (
    Handover,
    Mark,
    Marked,
    SeededDataset,
    Single,
    WorkerStart,
    forking,
)
from holdfast.frameworks.data.passes import MapLoader
from holdfast.frameworks.data.streams import Carrying, Counting, Start, Stream, StreamLoader, Turns

ENDS_SECONDS = 5.0
"""For how long the data workers of a pass that was left may finish what they are at."""
_KNOWN = frozenset({"paddle.io.dataloader.sampler", "paddle.io.dataloader.batch_sampler"})
Collate = Callable[[Any], Any]
_LOADERS: WeakKeyDictionary[Any, _PaddleMap | _PaddleStream] = WeakKeyDictionary()


def positioned(loader: object) -> PositionedLoader | None:
    """A positioned view of a Paddle loader, the same one for the same loader; None for anything else.

    Raises
    ------
    UnsupportedError
        The loader cannot be positioned exactly; says the way out.
    """
    if not isinstance(loader, paddle.io.DataLoader):
        return None
    if loader not in _LOADERS:
        _refuse(loader)
        iterable = isinstance(loader.dataset, paddle.io.IterableDataset)
        copies = _Copies(copy.copy(loader))
        _LOADERS[loader] = _PaddleStream(copies) if iterable else _PaddleMap(copies)
        finalize(loader, copies.drop_workers)  # Paddle's own reader thread would keep them for ever
    view = _LOADERS[loader]
    view.copies.follow(loader)
    return view


def _refuse(loader: Any) -> None:
    if not paddle.in_dynamic_mode():
        raise UnsupportedError(
            "A Paddle DataLoader cannot be positioned in static graph mode.",
            do="Call paddle.disable_static() before making it.",
        )
    generator = getattr(getattr(loader.batch_sampler, "sampler", None), "generator", None)
    if isinstance(generator, Iterator):
        raise UnsupportedError(
            "A Paddle RandomSampler with generator= draws from a Python generator, which cannot go back.",
            do="Leave generator= out and seed NumPy, or write a sampler with state_dict().",
        )


def seed(value: int) -> None:
    """Seed Paddle's global generators."""
    paddle.seed(value)


def _identity() -> int:
    info = paddle.io.get_worker_info()
    return 0 if info is None else int(info.id)


def _reveal() -> None:
    info = paddle.io.get_worker_info()
    info.__dict__["dataset"] = info.dataset.dataset


def _mark(batch: Any, mark: Mark) -> list[Any]:
    first, *rest = batch
    return [Marked(first, mark), *rest]


class _Copies:
    """Copies of the user's loader, ours in their place."""

    def __init__(self, loader: Any) -> None:
        self.loader = loader
        self.batched = loader.batch_sampler is not None
        self.collate: Collate = default_collate_fn
        self.follow(loader)
        self._handover = Handover()
        self._kept: Any = None
        self._running: Callable[[], Any] = lambda: None

    def follow(self, loader: Any) -> None:
        """Take up what the script may set between passes."""
        for name in ("collate_fn", "worker_init_fn", "timeout"):
            setattr(self.loader, name, getattr(loader, name))
        self.collate = loader.collate_fn or default_collate_fn
        if not self.batched:
            self.collate = Single(loader.collate_fn or default_convert_fn)

    def iterate(self, indices: Iterator[Any], first: Mark, **ours: Any) -> Iterator[Any]:
        """Iterate over a copy with workers; the one whose workers live on is used again."""
        self._handover.prepared = indices
        if self._kept is not None:
            return iter(self._kept)
        mine = copy.copy(self.loader)
        ours = {"collate_fn": self.collate, **ours}
        mine.__dict__.update(batch_sampler=self._handover, auto_collate_batch=True, _iterator=None, **ours)
        mine.worker_init_fn = WorkerStart(mine.worker_init_fn, _reveal)
        if mine._persistent_workers:
            self._kept = mine
        state = np.random.get_state()
        try:  # it draws the workers' base seed from NumPy, but only when it starts new ones
            np.random.seed(np.frombuffer(first.entropy("base seed"), dtype="<u4"))
            with forking():
                batches: Iterator[Any] = iter(mine)
        finally:
            np.random.set_state(state)
        self._running = ref(batches)
        return batches

    def drop_workers(self) -> None:
        """End them now; those that live on too, as Paddle's reader keeps stale batches."""
        running = self._running()
        self._kept = None
        if running is not None:
            # Paddle waits for each in turn, and without a time for ever for one that hangs.
            running._try_shutdown_all(ENDS_SECONDS / len(running._workers))
            for worker in running._workers:
                worker.kill()
                worker.join()


class _Here:
    """Loads in this thread what ``load`` gives, as tensors on the loader's place."""

    def __init__(self, load: Callable[[], Any], place: Any) -> None:
        self._load = load
        self._place = place

    def __iter__(self) -> Iterator[Any]:
        return self

    def __next__(self) -> Any:
        batch = self._load()
        whole = isinstance(batch, list | tuple | dict)
        return self._tensors(batch) if whole else self._tensors([batch])[0]

    def _tensors(self, value: Any) -> Any:
        if isinstance(value, paddle.Tensor):
            return value if value.place == self._place else value._copy_to(self._place, True)
        if isinstance(value, np.ndarray):
            return paddle.to_tensor(value, place=self._place)
        if isinstance(value, dict):
            return {k: self._tensors(v) for k, v in value.items()}
        if isinstance(value, list | tuple):
            return [self._tensors(v) for v in value]  # Paddle's reader too gives lists for tuples
        return value


class _PaddleMap(MapLoader):
    def __init__(self, copies: _Copies) -> None:
        self.copies = copies
        loader = copies.loader
        super().__init__(
            loader.dataset,
            loader.batch_sampler if copies.batched else range(len(loader.dataset)),
            batched=copies.batched,
            workers=loader.num_workers,
            seeders=(seed,),
            known=_KNOWN,
        )

    def batch_size(self) -> int | None:
        size = getattr(self._sampler, "batch_size", None)
        return size if type(size) is int else None

    def open(self, draws: Draws, first: Mark) -> Iterator[Any]:
        if not self.copies.batched:
            draws.wrap = lambda index, mark: [index]
        if not self._workers:
            dataset, collate = self._dataset, self.copies.collate
            return _Here(lambda: collate([dataset[i] for i in next(draws)]), self.copies.loader.places[0])
        draws.wrap = _mark if self.copies.batched else lambda index, mark: _mark([index], mark)
        return self.copies.iterate(draws, first, dataset=SeededDataset(self._dataset, self._seeders))

    def finished(self, *, exhausted: bool) -> None:
        super().finished(exhausted=exhausted)
        if not exhausted:
            self.copies.drop_workers()


class _PaddleStream(StreamLoader):
    def __init__(self, copies: _Copies) -> None:
        self.copies = copies
        loader = copies.loader
        super().__init__(
            loader.dataset,
            size=loader.batch_sampler.batch_size if copies.batched else 1,
            workers=loader.num_workers,
            keeps_workers=False,
        )

    def batches(self) -> int | None:
        return None

    def open(self, first: Mark, starts: list[Start]) -> Iterator[Any]:
        collate, loader = self.copies.collate, self.copies.loader
        if not self.workers:
            load = _gather(iter(self._dataset), self.size, Counting(collate), drop_last=loader.drop_last)
            return _Here(load, loader.places[0])
        stream = Stream(self._dataset, self.size, (seed,), _identity, starts)
        turns = iter(Turns(self.size, first))
        ours = {"dataset": stream, "collate_fn": Carrying(collate, stream)}
        # Paddle's persistent workers hang at the end of an iterable dataset
        return self.copies.iterate(turns, first, _persistent_workers=False, **ours)

    def finished(self, positions: dict[int, list[Any]] | None) -> None:
        super().finished(positions)
        if positions is None:
            self.copies.drop_workers()


def _gather(samples: Iterator[Any], size: int, collate: Collate, *, drop_last: bool) -> Callable[[], Any]:
    def load() -> Any:
        batch = list(islice(samples, size))
        if not batch or (drop_last and len(batch) < size):
            raise StopIteration
        return collate(batch)

    return load
