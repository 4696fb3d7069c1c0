"""Exact positions in `torch.utils.data.DataLoader` and torchdata's `StatefulDataLoader`.

The user's loader is never changed: its settings are copied to a plain DataLoader whose
batch sampler is ours.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any
from weakref import WeakKeyDictionary, ref

import torch
from torch.utils.data import DataLoader, IterDataPipe, get_worker_info
from torch.utils.data import IterableDataset as TorchIterable

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

_KNOWN = frozenset(
    {
        "torch.utils.data.sampler",
        "torch.utils.data.distributed",
        "torchdata.stateful_dataloader.sampler",
    }
)
_SETTABLE = ("collate_fn", "worker_init_fn", "timeout", "pin_memory")
"""What a script may set between passes, as torch takes it up with the next iterator."""
_LOADERS: WeakKeyDictionary[Any, _TorchMap | _TorchStream] = WeakKeyDictionary()


def positioned(loader: object) -> PositionedLoader | None:
    """A positioned view of a torch loader, the same one for the same loader; None for anything else.

    Raises
    ------
    UnsupportedError
        The loader cannot be positioned exactly; says the way out.
    """
    if not isinstance(loader, DataLoader):
        return None
    if loader not in _LOADERS:
        _refuse(loader)
        iterable = isinstance(loader.dataset, TorchIterable)
        _LOADERS[loader] = _TorchStream(_Clones(loader)) if iterable else _TorchMap(_Clones(loader))
    view = _LOADERS[loader]
    view.clones.follow(loader)
    return view


def _refuse(loader: DataLoader[Any]) -> None:
    if loader.num_workers and not loader.in_order:
        raise UnsupportedError(
            "A DataLoader with in_order=False delivers batches in the order in which workers happen to "
            "finish, which cannot be repeated.",
            do="Set in_order=True.",
        )
    if isinstance(loader.dataset, IterDataPipe):
        raise UnsupportedError(
            "The position in an IterDataPipe cannot be kept.",
            do="Use an IterableDataset with state_dict() and load_state_dict(), or a map-style dataset.",
        )
    iterates = type(loader).__iter__
    if iterates is not DataLoader.__iter__ and not iterates.__module__.startswith("torchdata."):
        raise UnsupportedError(
            f"{type(loader).__name__} iterates in a way of its own, which cannot be positioned.",
            do="Pass a plain torch DataLoader.",
        )


def seed(value: int) -> None:
    """Seed torch's global generators."""
    torch.manual_seed(value)


def _identity() -> int:
    info = get_worker_info()
    return 0 if info is None else int(info.id)


def _reveal() -> None:
    info: Any = get_worker_info()
    object.__setattr__(info, "dataset", info.dataset.dataset)


class _Dataset(SeededDataset):
    def __getitems__(self, indices: Any) -> Any:
        wanted = self.unmark(indices)
        fetch: Callable[[Any], Any] | None = getattr(self.dataset, "__getitems__", None)
        return fetch(wanted) if fetch else [self.dataset[index] for index in wanted]


class _Clones:
    """Plain DataLoaders with the user's settings, and ours in their place."""

    def __init__(self, loader: DataLoader[Any]) -> None:
        self.settings = dict(loader.__dict__)  # not the loader: that would keep it alive
        self.batched = loader.batch_sampler is not None
        self._kept: DataLoader[Any] | None = None
        self._running: Callable[[], Iterator[Any] | None] = lambda: None
        self._handover = Handover()

    def follow(self, loader: DataLoader[Any]) -> None:
        """Take up what the script has set since."""
        self.settings |= {name: getattr(loader, name) for name in _SETTABLE}

    def iterate(self, indices: Iterator[Any], first: Mark, **ours: Any) -> Iterator[Any]:
        """Iterate over a clone; the one whose workers live on is used again."""
        self._handover.prepared = indices
        if self._kept is not None:
            return iter(self._kept)
        clone = self._clone(first, ours)
        with forking():
            batches = iter(clone)
        self._running = ref(batches)
        return batches

    def _clone(self, first: Mark, ours: dict[str, Any]) -> DataLoader[Any]:
        generator = torch.Generator()
        generator.manual_seed(int.from_bytes(first.entropy("base seed")[:8], "little") >> 1)
        clone: DataLoader[Any] = DataLoader.__new__(DataLoader)
        sampler = {"batch_sampler" if self.batched or "collate_fn" in ours else "sampler": self._handover}
        clone.__dict__.update(self.settings, generator=generator, _iterator=None, **sampler, **ours)
        clone.__dict__["_IterableDataset_len_called"] = None
        if clone.num_workers:
            clone.worker_init_fn = WorkerStart(clone.worker_init_fn, _reveal)
        if clone.persistent_workers:
            self._kept = clone
        return clone

    def forget_workers(self) -> None:
        """Begin the next pass with new ones."""
        self._kept = None
        self.stop_workers()

    def stop_workers(self) -> None:
        """End those of a pass left in the middle now, not when its iterator is collected."""
        stop = getattr(self._running(), "_shutdown_workers", None)
        if stop is not None and self._kept is None:
            stop()


class _TorchMap(MapLoader):
    def __init__(self, clones: _Clones) -> None:
        self.clones = clones
        settings = clones.settings
        super().__init__(
            settings["dataset"],
            settings["batch_sampler"] if clones.batched else settings["sampler"],
            batched=clones.batched,
            workers=settings["num_workers"],
            seeders=(seed,),
            known=_KNOWN,
        )

    def batch_size(self) -> int | None:
        size = self.clones.settings["batch_size"] or getattr(self._sampler, "batch_size", None)
        return size if type(size) is int else None

    def open(self, draws: Draws, first: Mark) -> Iterator[Any]:
        if not self._workers:
            return self.clones.iterate(draws, first)
        draws.wrap = Marked
        return self.clones.iterate(draws, first, dataset=_Dataset(self._dataset, self._seeders))

    def finished(self, *, exhausted: bool) -> None:
        super().finished(exhausted=exhausted)
        self.clones.stop_workers()


class _TorchStream(StreamLoader):
    def __init__(self, clones: _Clones) -> None:
        self.clones = clones
        settings = clones.settings
        super().__init__(
            settings["dataset"],
            size=settings["batch_size"] or 1,
            workers=settings["num_workers"],
            keeps_workers=settings["persistent_workers"],
        )

    def batches(self) -> int | None:
        try:
            samples = len(self._dataset)
        except (TypeError, NotImplementedError):
            return None
        whole = samples if self.clones.settings["drop_last"] else samples + self.size - 1
        return whole // self.size

    def open(self, first: Mark, starts: list[Start]) -> Iterator[Any]:
        collate = self.clones.settings["collate_fn"]
        if not self.clones.batched:
            collate = Single(collate)
        turns = iter(Turns(self.size, first))
        if not self.workers:
            return self.clones.iterate(turns, first, collate_fn=Counting(collate))
        if starts:  # workers that live on would not hear of them (a restore within one process)
            self.clones.forget_workers()
        stream = Stream(self._dataset, self.size, (seed,), _identity, starts)
        return self.clones.iterate(turns, first, dataset=stream, collate_fn=Carrying(collate, stream))

    def finished(self, positions: dict[int, list[Any]] | None) -> None:
        super().finished(positions)
        self.clones.stop_workers()
