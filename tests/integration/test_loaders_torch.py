"""Passes over torch loaders, cut at any batch, go on bit for bit."""

import gc
import multiprocessing
import random
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import psutil
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

from cut_passes import Cuts, Make, through_bytes
from holdfast.errors import UnsupportedError
from holdfast.frameworks import rng
from holdfast.frameworks.data.marked import Mark, Marked, SeededDataset
from holdfast.training.position import BatchPass

torch.set_num_threads(1)
pytestmark = pytest.mark.filterwarnings(
    "ignore:'set_vital' is deprecated", "ignore:This DataLoader will create 3 worker processes"
)
SAMPLES = 14


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


def begin(seed: int) -> None:
    torch.manual_seed(seed)
    np.random.seed(seed)
    random.seed(seed)


check = Cuts(begin, noise, frozen)


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


class EpochOfTheScript(KeepsState):
    """Keeps its epoch with its place, and the script sets it."""

    def __init__(self) -> None:
        super().__init__()
        self.epoch = 0

    def set_epoch(self, epoch: int) -> None:
        self.epoch = epoch

    def __iter__(self) -> Iterator[int]:
        return ((i + self.epoch) % SAMPLES for i in super().__iter__())

    def state_dict(self) -> dict[str, Any]:
        return super().state_dict() | {"epoch": self.epoch}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        super().load_state_dict(state)
        self.epoch = state["epoch"]


def test_sampler_with_a_state_set_by_the_script() -> None:
    check(lambda: DataLoader(Noisy(), 4, sampler=EpochOfTheScript()), before=set_epoch)


@pytest.mark.parametrize("workers", [0, 2])
@pytest.mark.parametrize("delivered", range(5))
def test_generator_shared_with_the_training_loop(workers: int, delivered: int) -> None:
    def begun(seed: int, **saved: Any) -> Iterator[Any]:
        begin(seed)
        shared = generator()
        loader = DataLoader(Noisy(), 4, shuffle=True, generator=shared, num_workers=workers)
        current = BatchPass(loader, seed=1, number=0, **saved)
        iter(current)
        yield current
        yield from ((frozen(batch), torch.rand((), generator=shared).item()) for batch in current)
        yield current.inexact or torch.rand((), generator=shared).item()

    whole = begun(1)
    current = next(whole)
    for _ in range(delivered):
        next(whole)
    saved, state = through_bytes(current.state()), through_bytes(rng.capture_rng())
    rest = list(whole)
    assert list(begun(99, saved=saved, resume_rng=state))[1:] == rest


class Reseeded(Noisy):
    """The script gives it another generator for each epoch."""

    def set_epoch(self, epoch: int) -> None:
        self.own = np.random.default_rng(epoch)


class ReseededInPlace(Noisy):
    def __init__(self) -> None:
        super().__init__()
        self.own = random.Random(0)  # type: ignore[assignment]

    def set_epoch(self, epoch: int) -> None:
        self.own.seed(epoch)  # type: ignore[attr-defined]


@pytest.mark.parametrize("kind", [Reseeded, ReseededInPlace])
def test_generator_of_a_dataset_set_by_the_script(kind: Any) -> None:
    check(
        lambda: DataLoader(kind(), 4, shuffle=True),
        before=lambda loader, number: loader.dataset.set_epoch(number),
    )


class Late(Noisy):
    """Makes its generator with the first sample."""

    def __init__(self) -> None:
        super().__init__()
        self.own = None  # type: ignore[assignment]

    def __getitem__(self, index: int) -> torch.Tensor:
        self.own = self.own or np.random.default_rng(3)
        return super().__getitem__(index)


def test_generator_made_late_is_told_of() -> None:
    first = BatchPass(DataLoader(Late(), 4), seed=1, number=0)
    next(first)
    again = BatchPass(DataLoader(Late(), 4), seed=1, number=0, saved=through_bytes(first.state()))
    next(again)
    assert "the generator own of the dataset is made only when it is needed" in str(again.inexact)


def test_generator_made_late_in_a_worker_is_told_of() -> None:
    dataset = SeededDataset(Late(), (torch.manual_seed,))
    dataset[Marked(0, Mark(1, 0, 0))]
    with pytest.warns(UserWarning, match="generator own of the dataset is made only when"):
        second = dataset[Marked(1, Mark(1, 0, 1))]
    assert torch.equal(dataset[Marked(1, Mark(1, 0, 1))], second)  # seeded by the batch from here on


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


class Lines(IterableDataset):
    """Keeps its place; worker 0 has few samples, so it ends early."""

    def __init__(self, few: int = 3) -> None:
        self.few = few
        self.place = 0
        self.turn = 0

    def mine(self) -> range:
        info = get_worker_info()
        if info is None:
            return range(SAMPLES)
        assert info.dataset is self
        if info.num_workers == 1:
            return range(SAMPLES)
        return (
            range(self.few) if info.id == 0 else range(self.few, SAMPLES)[info.id - 1 :: info.num_workers - 1]
        )

    def __iter__(self) -> Iterator[Any]:
        mine = self.mine()
        while self.place < len(mine):
            self.place += 1
            yield torch.tensor([float(mine[self.place - 1]), self.turn, *noise()], dtype=torch.float64)
        self.place = 0
        self.turn += 1

    def state_dict(self) -> dict[str, Any]:
        return {"place": self.place, "turn": torch.tensor(self.turn)}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self.place, self.turn = state["place"], int(state["turn"])


def label(batch: torch.Tensor) -> float:
    return float(batch[0, 0])


def labels(batch: torch.Tensor) -> list[int]:
    return [int(row[0]) for row in batch]


class Plain(Noisy):
    def __getitem__(self, index: int) -> torch.Tensor:
        return torch.full((2,), float(index))


class Forgetful(IterableDataset):
    def __iter__(self) -> Iterator[int]:
        return iter(range(SAMPLES))


STREAMS: dict[str, Make] = {
    "here": lambda: DataLoader(Lines(), batch_size=4),
    "drop last": lambda: DataLoader(Lines(), batch_size=4, drop_last=True),
    "no batches": lambda: DataLoader(Lines(), batch_size=None),
}
STREAM_WORKERS: dict[str, Make] = {
    "first ends early": lambda: DataLoader(Lines(), batch_size=2, num_workers=2),
    "first is empty": lambda: DataLoader(Lines(0), batch_size=2, num_workers=2),
    "three workers": lambda: DataLoader(Lines(), batch_size=2, num_workers=3, drop_last=True),
    "persistent": lambda: DataLoader(Lines(), batch_size=2, num_workers=2, persistent_workers=True),
    "no batches": lambda: DataLoader(Lines(9), batch_size=None, num_workers=2),
}


@pytest.mark.parametrize("name", STREAMS)
def test_cut_stream_anywhere(name: str) -> None:
    check(STREAMS[name])


@pytest.mark.parametrize("name", STREAM_WORKERS)
def test_cut_stream_with_workers(name: str) -> None:
    check(STREAM_WORKERS[name], passes=2, cuts=6)


class EpochOfTheScriptLines(Lines):
    epoch = 0

    def set_epoch(self, epoch: int) -> None:
        self.epoch = epoch

    def __iter__(self) -> Iterator[Any]:
        return (line + self.epoch for line in super().__iter__())

    def state_dict(self) -> dict[str, Any]:
        return super().state_dict() | {"epoch": self.epoch}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        super().load_state_dict(state)
        self.epoch = state["epoch"]


def test_stream_set_by_the_script() -> None:
    check(
        lambda: DataLoader(EpochOfTheScriptLines(), batch_size=2),
        before=lambda loader, number: loader.dataset.set_epoch(number),
    )


def test_stream_without_state_is_refused() -> None:
    with pytest.raises(UnsupportedError, match=r"Forgetful cannot be kept.*Give it both, or use a map-style"):
        BatchPass(DataLoader(Forgetful(), batch_size=2), seed=1, number=0)


def test_stream_with_other_workers_is_refused() -> None:
    saved = BatchPass(DataLoader(Lines(), batch_size=2), seed=1, number=0).state()
    other = BatchPass(DataLoader(Lines(), batch_size=2, num_workers=1), seed=1, number=0, saved=saved)
    with pytest.raises(UnsupportedError, match="Set num_workers=0 again"):
        next(other)


@pytest.mark.parametrize("workers", [0, 2])
def test_no_sample_is_loaded_to_be_thrown_away(workers: int, tmp_path: Path) -> None:
    def make(name: str) -> Any:
        return DataLoader(Noisy(log=tmp_path / name), batch_size=2, shuffle=True, num_workers=workers)

    begin(1)
    first = BatchPass(make("first"), seed=1, number=0)
    whole = [frozen(next(first)) for _ in range(5)]
    saved = through_bytes(first.state())
    first.close()
    second = BatchPass(make("second"), seed=1, number=0, saved=saved)
    assert second.delivered == 5
    assert second.samples == 10
    assert second.remaining() == 2
    rest = [frozen(batch) for batch in second]
    assert second.exhausted
    assert len(whole + rest) == 7
    assert len((tmp_path / "second").read_text().split()) == SAMPLES - 10


def test_content_does_not_depend_on_the_number_of_workers() -> None:
    def content(workers: int) -> list[bytes]:
        begin(1)
        loader = DataLoader(Noisy(), batch_size=2, shuffle=True, num_workers=workers)
        return [frozen(batch) for batch in BatchPass(loader, seed=1, number=0)]

    assert content(1) == content(3)


def shift(worker: int) -> None:
    info = get_worker_info()
    assert type(info.dataset) is Noisy
    assert info.id == worker
    info.dataset.offset = 1000


def test_worker_init_fn_reaches_the_dataset() -> None:
    loader = DataLoader(Noisy(), batch_size=2, num_workers=1, worker_init_fn=shift)
    assert min(float(label(batch)) for batch in BatchPass(loader, seed=1, number=0)) >= 1000


@pytest.mark.parametrize("workers", [0, 2])
def test_changed_batch_size_goes_on_at_the_next_sample(workers: int) -> None:
    def make(size: int) -> Any:
        return DataLoader(Noisy(), batch_size=size, shuffle=True, num_workers=workers)

    begin(1)
    first = BatchPass(make(4), seed=1, number=0)
    seen = [s for _, batch in zip(range(1), first, strict=False) for s in labels(batch)]
    second = BatchPass(make(3), seed=1, number=0, saved=through_bytes(first.state()))
    sizes = []
    for batch in second:
        seen += labels(batch)
        sizes.append(len(labels(batch)))
        if len(sizes) == 1:
            third = BatchPass(make(3), seed=1, number=0, saved=through_bytes(second.state()))
            assert third.samples == 4 + 2
    assert sorted(seen) == list(range(SAMPLES))
    assert sizes == [2, 3, 3, 2]
    assert second.inexact == "batch_size was 4, now 3"
    assert second.samples == SAMPLES


def test_other_samples_are_noticed() -> None:
    first = BatchPass(DataLoader(Noisy(), batch_sampler=[[1, 2], [3, 4]]), seed=1, number=0)
    next(first)
    second = BatchPass(
        DataLoader(Noisy(), batch_sampler=[[5, 2], [3, 4]]), seed=1, number=0, saved=first.state()
    )
    assert labels(next(second)) == [3, 4]
    assert second.inexact == "the sampler gives other samples than it did before"


@pytest.mark.parametrize("persistent", [False, True])
def test_pass_left_in_the_middle_then_a_new_one(persistent: bool) -> None:
    def contents(left: int) -> list[bytes]:
        begin(1)
        loader = DataLoader(Noisy(), batch_size=2, num_workers=2, persistent_workers=persistent)
        first = BatchPass(loader, seed=1, number=0)
        for _ in range(left):
            next(first)
        first.close()
        return [frozen(batch) for batch in BatchPass(loader, seed=1, number=1)]

    gc.collect()
    before = set(multiprocessing.active_children())
    assert contents(2) == contents(3)
    assert set(multiprocessing.active_children()) <= before


def test_same_batches_as_the_plain_loader() -> None:
    for options in ({"batch_size": 4}, {"batch_size": None}):
        loader = DataLoader(Plain(), **options)
        settings = {k: v for k, v in vars(loader).items() if not k.startswith("__")}
        assert [frozen(b) for b in BatchPass(loader, seed=1, number=0)] == [frozen(b) for b in loader]
        assert all(vars(loader)[k] is v for k, v in settings.items())


KILLED = """
import sys, os, time
import torch
from torch.utils.data import DataLoader
from holdfast.training.position import BatchPass
loader = DataLoader([1.0] * 100, batch_size=2, num_workers=2)
data = BatchPass(loader, seed=1, number=0)
next(data)
import psutil
print(*[child.pid for child in psutil.Process().children()], flush=True)
time.sleep(60)
"""


def test_workers_die_with_a_killed_trainer() -> None:
    trainer = subprocess.Popen(
        [sys.executable, "-W", "ignore", "-c", KILLED], stdout=subprocess.PIPE, text=True
    )
    assert trainer.stdout is not None
    workers = [int(pid) for pid in trainer.stdout.readline().split()]
    assert len(workers) >= 2
    trainer.kill()
    trainer.wait()
    trainer.stdout.close()
    deadline = time.monotonic() + 3
    while alive := [pid for pid in workers if psutil.pid_exists(pid)]:
        assert time.monotonic() < deadline, alive
        time.sleep(0.02)


def test_spawned_workers() -> None:
    loader = DataLoader(
        Noisy(), batch_size=7, num_workers=1, worker_init_fn=shift, multiprocessing_context="spawn"
    )
    forked = DataLoader(Noisy(), batch_size=7, num_workers=1, worker_init_fn=shift)
    spawned = [frozen(batch) for batch in BatchPass(loader, seed=1, number=0)]
    assert spawned == [frozen(batch) for batch in BatchPass(forked, seed=1, number=0)]


def test_unseeded_generator_of_a_sampler() -> None:
    check(lambda: DataLoader(Noisy(), 4, sampler=Unseeded()), unseeded=True)


class Unseeded(Sampler):
    def __init__(self) -> None:
        self.generator = np.random.default_rng()

    def __len__(self) -> int:
        return SAMPLES

    def __iter__(self) -> Iterator[int]:
        return iter(self.generator.permutation(SAMPLES).tolist())


class OwnWay(DataLoader):
    def __iter__(self) -> Any:
        return iter([1, 2])


@pytest.mark.parametrize(
    ("loader", "way_out"),
    [
        (lambda: DataLoader(Noisy(), num_workers=1, in_order=False), "Set in_order=True"),
        (lambda: OwnWay(Noisy()), "Pass a plain torch DataLoader"),
    ],
)
def test_refused_with_the_way_out(loader: Make, way_out: str) -> None:
    with pytest.raises(UnsupportedError, match=way_out):
        BatchPass(loader(), seed=1, number=0)


def test_a_failing_sample_does_not_shift_the_position() -> None:
    loader = DataLoader(Broken(), batch_size=2)
    current = BatchPass(loader, seed=1, number=0)
    assert labels(next(current)) == [0, 1]
    with pytest.raises(ValueError, match="broken"):
        next(current)
    assert current.delivered == 1
    assert labels(next(current)) == [4, 5]
    assert (current.delivered, current.samples) == (3, 6)


class Broken(Plain):
    def __getitem__(self, index: int) -> torch.Tensor:
        if index == 2:
            raise ValueError("broken")
        return super().__getitem__(index)


def test_going_back_within_one_process_with_workers_that_live_on() -> None:
    loader = DataLoader(Lines(), batch_size=2, num_workers=2, persistent_workers=True)
    list(BatchPass(loader, seed=1, number=0))
    current = BatchPass(loader, seed=1, number=1)
    next(current)
    saved, rest = through_bytes(current.state()), [frozen(batch) for batch in current]
    assert [frozen(batch) for batch in BatchPass(loader, seed=1, number=1, saved=saved)] == rest


@pytest.mark.parametrize("workers", [0, 1])
def test_what_the_script_sets_of_a_loader_between_passes_counts(workers: int) -> None:
    loader = DataLoader(Plain(), batch_size=4, num_workers=workers)
    list(BatchPass(loader, seed=1, number=0))
    loader.collate_fn = Doubled()
    assert labels(next(BatchPass(loader, seed=1, number=1))) == [0, 2, 4, 6]


class Doubled:
    def __call__(self, samples: list[torch.Tensor]) -> torch.Tensor:
        return torch.stack(samples) * 2
