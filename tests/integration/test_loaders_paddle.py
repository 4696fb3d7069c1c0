"""Passes over Paddle loaders, cut at any batch, go on bit for bit."""

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
import paddle
import psutil
import pytest
from paddle.io import (
    BatchSampler,
    DataLoader,
    Dataset,
    DistributedBatchSampler,
    IterableDataset,
    RandomSampler,
    Sampler,
    SubsetRandomSampler,
    WeightedRandomSampler,
    get_worker_info,
)

from cut_passes import Cuts, Make, through_bytes
from holdfast.errors import UnsupportedError
from holdfast.frameworks.paddle import loaders
from holdfast.training.position import BatchPass

pytestmark = pytest.mark.paddle
SAMPLES = 14


def noise() -> list[float]:
    return [float(paddle.rand([1]).numpy()[0]), float(np.random.rand()), random.random()]


class Noisy(Dataset):
    """Every sample carries random numbers of every global generator and of its own."""

    def __init__(self, log: Path | None = None) -> None:
        super().__init__()
        self.log = log
        self.own = np.random.default_rng(3)
        self.offset = 0

    def __len__(self) -> int:
        return SAMPLES

    def __getitem__(self, index: int) -> Any:
        if self.log is not None:
            with self.log.open("a") as file:
                file.write(f"{int(index)}\n")
        values = [float(index) + self.offset, *noise(), float(self.own.random())]
        return np.array(values, dtype=np.float64), {"label": int(index), "name": f"n{int(index)}"}


def frozen(batch: Any) -> bytes:
    if isinstance(batch, paddle.Tensor):
        return str(batch.dtype).encode() + batch.numpy().tobytes()
    if isinstance(batch, dict):
        return b"".join(key.encode() + frozen(value) for key, value in batch.items())
    return b"".join(map(frozen, batch)) if isinstance(batch, list) else repr(batch).encode()


def begin(seed: int) -> None:
    paddle.seed(seed)
    np.random.seed(seed)
    random.seed(seed)


check = Cuts(begin, noise, frozen)


class GlobalDraws(Sampler):
    """Draws one index at a time from every global generator, while training draws too."""

    def __len__(self) -> int:
        return SAMPLES

    def __iter__(self) -> Iterator[int]:
        for _ in range(SAMPLES):
            yield int(sum(noise()) * 1000) % SAMPLES


def batched(sampler: Any, size: int = 4, drop_last: bool = False) -> BatchSampler:
    return BatchSampler(sampler=sampler, batch_size=size, drop_last=drop_last)


SAMPLERS: dict[str, Make] = {
    "replacement": lambda: RandomSampler(range(SAMPLES), replacement=True, num_samples=30),
    "weighted": lambda: WeightedRandomSampler([0.1] * SAMPLES, SAMPLES),
    "subset": lambda: SubsetRandomSampler(list(range(3, SAMPLES))),
    "draws from the global generators": GlobalDraws,
}
HERE: dict[str, Make] = {
    "in order": lambda: DataLoader(Noisy(), batch_size=4),
    "shuffled": lambda: DataLoader(Noisy(), batch_size=4, shuffle=True),
    "drop last": lambda: DataLoader(Noisy(), batch_size=4, shuffle=True, drop_last=True),
    "no batches": lambda: DataLoader(Noisy(), batch_size=None),
    "distributed": lambda: DataLoader(
        Noisy(), batch_sampler=DistributedBatchSampler(Noisy(), 3, num_replicas=2, rank=1, shuffle=True)
    ),
}
HERE |= {
    name: lambda sampler=sampler: DataLoader(Noisy(), batch_sampler=batched(sampler()))
    for name, sampler in SAMPLERS.items()
}


@pytest.mark.parametrize("name", HERE)
def test_cut_anywhere(name: str) -> None:
    check(HERE[name])


def set_epoch(loader: Any, number: int) -> None:
    loader.batch_sampler.set_epoch(number + 3)


def test_distributed_sampler_set_by_the_script() -> None:
    check(HERE["distributed"], before=set_epoch)


WORKERS: dict[str, Make] = {
    "shuffled": lambda: DataLoader(Noisy(), batch_size=2, shuffle=True, num_workers=2),
    "no shared memory": lambda: DataLoader(
        Noisy(), batch_size=2, shuffle=True, num_workers=2, use_shared_memory=False
    ),
    "persistent": lambda: DataLoader(
        Noisy(), batch_size=2, shuffle=True, num_workers=2, persistent_workers=True
    ),
    "no batches": lambda: DataLoader(Noisy(), batch_size=None, num_workers=2),
    "distributed": lambda: DataLoader(
        Noisy(),
        batch_sampler=DistributedBatchSampler(Noisy(), 3, num_replicas=2, rank=1, shuffle=True),
        num_workers=2,
    ),
    "draws from the global generators": lambda: DataLoader(
        Noisy(), batch_sampler=batched(GlobalDraws(), 2), num_workers=2
    ),
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
            yield np.array([float(mine[self.place - 1]), self.turn, *noise()])
        self.place = 0
        self.turn += 1

    def state_dict(self) -> dict[str, Any]:
        return {"place": self.place, "turn": paddle.to_tensor(self.turn)}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self.place, self.turn = state["place"], int(state["turn"])


def label(batch: Any) -> float:
    return float(batch[0][0, 0])


def labels(batch: Any) -> list[int]:
    return [int(row[0]) for row in batch[0].numpy()]


class Plain(Noisy):
    def __getitem__(self, index: int) -> Any:
        return np.float64(index), {"a": np.ones(2), "n": index, "s": "x", "t": (np.int64(1), [np.float32(3)])}


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


class Stuck(Dataset):
    """Of each worker the second sample never comes."""

    def __len__(self) -> int:
        return 8

    def __getitem__(self, index: int) -> Any:
        if index >= 4:
            time.sleep(1000)
        return np.full(1, index)


def test_a_pass_is_left_though_its_workers_hang(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(loaders, "ENDS_SECONDS", 2)
    left = BatchPass(DataLoader(Stuck(), batch_size=1, num_workers=4), seed=1, number=0)
    assert next(left)[0].tolist() == [0]
    began = time.monotonic()
    left.close()
    assert time.monotonic() - began < 6, "they are not waited for one after the other"
    assert not multiprocessing.active_children()


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
    for begun in (first, third):
        begun.close()


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
import paddle
from paddle.io import DataLoader
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


@pytest.mark.parametrize("workers", [0, 1])
def test_what_the_script_sets_of_a_loader_between_passes_counts(workers: int) -> None:
    loader = DataLoader(Plain(), batch_size=4, num_workers=workers)
    list(BatchPass(loader, seed=1, number=0))
    loader.collate_fn = Doubled()
    assert labels(next(BatchPass(loader, seed=1, number=1))) == [0, 2, 4, 6]


class Doubled:
    def __call__(self, samples: list[Any]) -> Any:
        return [np.array([[int(sample[0]) * 2] for sample in samples])]
