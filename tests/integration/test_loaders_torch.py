"""Passes over torch loaders, cut at any batch, go on bit for bit."""

import multiprocessing
import os
import random
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import pytest
import torch
from torch.utils.data import (
    BatchSampler,
    DataLoader,
    Dataset,
    DistributedSampler,
    IterableDataset,
    RandomSampler,
    Sampler,
    Subset,
    SubsetRandomSampler,
    WeightedRandomSampler,
    get_worker_info,
)
from torchdata.stateful_dataloader import StatefulDataLoader

from holdfast.domain import tree
from holdfast.errors import UnsupportedError
from holdfast.frameworks import rng
from holdfast.training.position import BatchPass

torch.set_num_threads(1)
pytestmark = pytest.mark.filterwarnings("ignore:'set_vital' is deprecated")
SAMPLES = 14
Make = Callable[[], Any]


def noise() -> list[float]:
    return [torch.rand(()).item(), float(np.random.rand()), random.random()]


class Noisy(Dataset):
    """Every sample carries random numbers of every global generator and of its own."""

    def __init__(self, count: int = SAMPLES, log: Path | None = None) -> None:
        self.count = count
        self.log = log
        self.own = np.random.default_rng(3)
        self.offset = 0

    def __len__(self) -> int:
        return self.count

    def __getitem__(self, index: int) -> torch.Tensor:
        if self.log is not None:
            with self.log.open("a") as file:
                file.write(f"{int(index)}\n")
        values = [float(index) + self.offset, *noise(), float(self.own.random())]
        return torch.tensor(values, dtype=torch.float64)


class Fetching(Noisy):
    def __getitems__(self, indices: list[int]) -> list[torch.Tensor]:
        return [self[index] for index in indices]


class Pairs(Noisy):
    def __getitem__(self, index: Any) -> torch.Tensor:
        return super().__getitem__(index[0] * 100 + index[-1])


def frozen(batch: Any) -> bytes:
    return bytes(batch.numpy().tobytes()) if isinstance(batch, torch.Tensor) else repr(batch).encode()


def through_bytes(value: Any) -> Any:
    data = msgspec.msgpack.encode(tree.encode(value))
    return tree.decode(msgspec.msgpack.decode(data))


class Point:
    """A safe point of an uninterrupted run: the position saved there, and what followed."""

    def __init__(self, number: int, current: BatchPass, trace: list[Any]) -> None:
        self.number = number
        self.exhausted = current.exhausted
        self.saved = through_bytes(current.state())
        self.rng = through_bytes(rng.capture_rng())
        self.at = len(trace)


def begin(seed: int) -> None:
    torch.manual_seed(seed)
    np.random.seed(seed)
    random.seed(seed)


def turns(current: BatchPass, trace: list[Any]) -> Iterator[None]:
    for batch in current:
        trace.append((frozen(batch), noise()))  # the training step draws too
        yield


def uninterrupted(
    make: Make, passes: int, before: Callable[[Any, int], None]
) -> tuple[list[Any], list[Point]]:
    begin(1)
    loader, trace, points = make(), [], []
    for number in range(passes):
        before(loader, number)
        current = BatchPass(loader, seed=5, number=number)
        iter(current)
        points.append(Point(number, current, trace))
        for _ in turns(current, trace):
            points.append(Point(number, current, trace))
        points.append(Point(number, current, trace))
        trace.append(("end", noise()))
    return trace, points


def resumed(make: Make, passes: int, before: Callable[[Any, int], None], point: Point) -> list[Any]:
    begin(99)  # a new process: nothing may depend on what its generators were
    loader, trace = make(), []
    rng.restore_rng(point.rng)
    number, saved = point.number, point.saved
    if point.exhausted:
        trace.append(("end", noise()))
        number += 1
    for later in range(number, passes):
        before(loader, later)
        mine = saved is not None and not point.exhausted
        current = BatchPass(loader, seed=5, number=later, saved=saved, resume_rng=point.rng if mine else None)
        for _ in turns(current, trace):
            pass
        assert current.inexact is None
        trace.append(("end", noise()))
        saved = None
    return trace


def leave_alone(loader: Any, number: int) -> None:
    pass


def check(
    make: Make, passes: int = 3, before: Callable[[Any, int], None] = leave_alone, cuts: int = 0
) -> None:
    """Cut at every safe point, or at ``cuts`` of them, and compare what follows."""
    trace, points = uninterrupted(make, passes, before)
    assert uninterrupted(make, passes, before)[0] == trace
    assert len({repr(t) for t in trace}) == len(trace)
    if cuts:
        points = [points[round(i * (len(points) - 1) / (cuts - 1))] for i in range(cuts)]
    for point in points:
        assert resumed(make, passes, before, point) == trace[point.at :], (point.number, point.at)


class GlobalDraws(Sampler):
    """Draws one index at a time from every global generator, while training draws too."""

    def __init__(self, count: int = SAMPLES) -> None:
        self.count = count

    def __len__(self) -> int:
        return self.count

    def __iter__(self) -> Iterator[int]:
        for _ in range(self.count):
            yield int(sum(noise()) * 1000) % self.count


class Shuffles(Sampler):
    """Permutes with global NumPy in ``__iter__``, as many samplers do."""

    def __len__(self) -> int:
        return SAMPLES

    def __iter__(self) -> Iterator[int]:
        return iter(np.random.permutation(SAMPLES).tolist())


class OwnGenerator(Sampler):
    """Has a generator and a counter of its own that move from pass to pass."""

    def __init__(self) -> None:
        self.generator = random.Random()
        self.unseeded = np.random.default_rng()
        self.generator.seed(4)
        self.turn = 0

    def __len__(self) -> int:
        return SAMPLES

    def __iter__(self) -> Iterator[int]:
        self.turn += 1
        for _ in range(SAMPLES):
            yield (self.generator.randrange(100) + self.turn) % SAMPLES


class KeepsState(Sampler):
    """Keeps its position and order itself, in a list."""

    def __init__(self) -> None:
        self.order = list(range(SAMPLES))
        self.position = 0

    def __len__(self) -> int:
        return SAMPLES

    def __iter__(self) -> Iterator[int]:
        if self.position == 0:
            self.order = [(i * 5 + 3) % SAMPLES for i in self.order]
        while self.position < SAMPLES:
            self.position += 1
            yield self.order[self.position - 1]
        self.position = 0

    def state_dict(self) -> dict[str, Any]:
        return {"order": torch.tensor(self.order), "position": self.position}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self.order, self.position = state["order"].tolist(), state["position"]


class Endless(Sampler):
    def __iter__(self) -> Iterator[int]:
        while True:
            yield from torch.randperm(SAMPLES).tolist()


def drawn(**options: Any) -> Make:
    return lambda: DataLoader(Noisy(), **options)


def generator(seed: int = 3) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


HERE: dict[str, Make] = {
    "in order": drawn(batch_size=4),
    "shuffled": drawn(batch_size=4, shuffle=True),
    "drop last": drawn(batch_size=4, shuffle=True, drop_last=True),
    "generator": lambda: DataLoader(Noisy(), batch_size=4, shuffle=True, generator=generator()),
    "replacement": lambda: DataLoader(
        Noisy(), 4, sampler=RandomSampler(range(SAMPLES), True, 70, generator=generator())
    ),
    "replacement, no generator": lambda: DataLoader(
        Noisy(), 4, sampler=RandomSampler(range(SAMPLES), True, 70)
    ),
    "weighted": lambda: DataLoader(Noisy(), 4, sampler=WeightedRandomSampler([0.1] * SAMPLES, SAMPLES)),
    "subset": lambda: DataLoader(Noisy(), 4, sampler=SubsetRandomSampler(range(3, SAMPLES))),
    "subset of a dataset": lambda: DataLoader(Subset(Noisy(), range(2, 12)), 3, shuffle=True),
    "batch sampler": lambda: DataLoader(
        Noisy(), batch_sampler=BatchSampler(RandomSampler(range(SAMPLES)), 3, drop_last=False)
    ),
    "nested batch samplers": lambda: DataLoader(
        Pairs(), 2, sampler=BatchSampler(RandomSampler(range(SAMPLES)), 2, False), collate_fn=torch.stack
    ),
    "list as sampler": lambda: DataLoader(Noisy(), 4, sampler=[3, 1, 2, 9, 9, 4]),
    "no batches": drawn(batch_size=None, shuffle=True),
    "draws from the global generators": lambda: DataLoader(Noisy(), 4, sampler=GlobalDraws()),
    "shuffles with NumPy": lambda: DataLoader(Noisy(), 4, sampler=Shuffles()),
    "own generator": lambda: DataLoader(Noisy(), 4, sampler=OwnGenerator()),
    "keeps state": lambda: DataLoader(Noisy(), 4, sampler=KeepsState()),
    "many at once": lambda: DataLoader(Fetching(), 4, shuffle=True),
    "stateful loader": lambda: StatefulDataLoader(Noisy(), batch_size=4, shuffle=True),
}


@pytest.mark.parametrize("name", HERE)
def test_cut_anywhere(name: str) -> None:
    check(HERE[name])


def set_epoch(loader: Any, number: int) -> None:
    loader.sampler.set_epoch(number)


def test_distributed_sampler_set_by_the_script() -> None:
    def make() -> Any:
        return DataLoader(Noisy(), 3, sampler=DistributedSampler(Noisy(), num_replicas=2, rank=1, seed=4))

    check(make, before=set_epoch)


def test_endless_sampler() -> None:
    def steps(current: BatchPass, count: int) -> list[bytes]:
        return [frozen(next(current)) for _ in range(count)]

    begin(1)
    current = BatchPass(DataLoader(Noisy(), 4, sampler=Endless()), seed=5, number=0)
    assert current.remaining() is None
    steps(current, 9)
    saved, state = through_bytes(current.state()), through_bytes(rng.capture_rng())
    expected = steps(current, 9)
    begin(99)
    current = BatchPass(
        DataLoader(Noisy(), 4, sampler=Endless()), seed=5, number=0, saved=saved, resume_rng=state
    )
    assert steps(current, 9) == expected


WORKERS: dict[str, Make] = {
    "shuffled": drawn(batch_size=2, shuffle=True, num_workers=2),
    "one worker, deep prefetch": drawn(batch_size=2, shuffle=True, num_workers=1, prefetch_factor=4),
    "persistent": drawn(batch_size=2, shuffle=True, num_workers=2, persistent_workers=True),
    "no batches": drawn(batch_size=None, shuffle=True, num_workers=2),
    "replacement": lambda: DataLoader(
        Noisy(), 4, sampler=RandomSampler(range(SAMPLES), True, 70, generator=generator()), num_workers=2
    ),
    "draws from the global generators": lambda: DataLoader(Noisy(), 2, sampler=GlobalDraws(), num_workers=2),
    "keeps state": lambda: DataLoader(Noisy(), 4, sampler=KeepsState(), num_workers=2),
    "own generator": lambda: DataLoader(Noisy(), 4, sampler=OwnGenerator(), num_workers=2),
    "many at once": lambda: DataLoader(Fetching(), 4, shuffle=True, num_workers=2),
    "stateful loader": lambda: StatefulDataLoader(Noisy(), batch_size=2, shuffle=True, num_workers=2),
}


@pytest.mark.parametrize("name", WORKERS)
def test_cut_with_workers(name: str) -> None:
    check(WORKERS[name], passes=2, cuts=6)
