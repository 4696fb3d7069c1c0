"""Randomness inside data workers as a function of seed, pass and batch, for every framework.

Workers receive marked indices; the dataset they see seeds every generator it can reach
when a batch begins. So content depends neither on the number of workers nor on where the
run was cut. Everything here is pickled into workers started by ``spawn``.
"""

from __future__ import annotations

import gc
import os
import random
import signal
import struct
import sys
import threading
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from hashlib import blake2b
from typing import Any, NamedTuple

from holdfast.frameworks.data import held
from holdfast.storage import linux

Seeder = Callable[[int], None]
"""Seeds a framework's global generators of this process from 63 bits."""


class Mark(NamedTuple):
    """Which batch this is: the run's data seed, the pass, the batch's number in it."""

    seed: int
    number: int
    batch: int

    def entropy(self, purpose: str = "") -> bytes:
        """32 bytes that only this batch and purpose have."""
        numbers = struct.pack("<QqQ", self.seed % 2**64, self.number, self.batch)
        return blake2b(numbers, key=purpose.encode()[:64], digest_size=32).digest()


class Marked(NamedTuple):
    """An index, or a batch of indices, that begins the batch ``mark``."""

    value: Any
    mark: Mark


def seed_globals(entropy: bytes, seeders: tuple[Seeder, ...]) -> None:
    """Seed the global generators of Python, NumPy and the given frameworks."""
    random.seed(entropy)
    if (numpy := sys.modules.get("numpy")) is not None:
        numpy.random.seed(numpy.frombuffer(entropy, dtype="<u4"))
    for seeder in seeders:
        seeder(int.from_bytes(entropy[:8], "little") >> 1)


class Seeding:
    """Seeds everything random that a worker's dataset can reach."""

    def __init__(self, dataset: Any, seeders: tuple[Seeder, ...]) -> None:
        self._dataset = dataset
        self._seeders = seeders
        self._generators: dict[str, Any] | None = None
        self._looked_twice = False

    def __call__(self, mark: Mark) -> None:
        if self._generators is None:  # found in the worker: its init function may have made them
            self._generators = held.generators(self._dataset)
        elif not self._looked_twice:
            self._look_again(self._generators)
        seed_globals(mark.entropy(), self._seeders)
        for path, generator in self._generators.items():
            held.reseed(generator, mark.entropy(path[-64:]))

    def _look_again(self, before: dict[str, Any]) -> None:
        """Some are made with the first sample, which no batch's seed decides then."""
        self._looked_twice, self._generators = True, held.generators(self._dataset)
        late = sorted(self._generators.keys() - before.keys())
        if late:
            warnings.warn(
                f"The generator {late[0]} of the dataset is made only when it is needed: a resume is exact "
                "only if it is made in __init__() or in worker_init_fn.",
                stacklevel=2,
            )

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "_generators": None, "_looked_twice": False}


class SeededDataset:
    """The user's map-style dataset as workers see it: seeds when a marked index comes."""

    def __init__(self, dataset: Any, seeders: tuple[Seeder, ...]) -> None:
        self.dataset = dataset
        self._seeding = Seeding(dataset, seeders)

    def unmark(self, index: Any) -> Any:
        """The user's index; seeds if it begins a batch."""
        if type(index) is not Marked:
            return index
        self._seeding(index.mark)
        return index.value

    def __getitem__(self, index: Any) -> Any:
        return self.dataset[self.unmark(index)]

    def __len__(self) -> int:
        return len(self.dataset)


@contextmanager
def forking() -> Iterator[None]:
    """Begin workers in here: what is garbage in this process must not be destroyed in theirs.

    Paddle's readers wait in their destructor for threads that a forked child does not have.
    """
    collects = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if collects:
            gc.enable()


class WorkerStart:
    """Runs first in every worker: ties it to its parent's life, then the user's init function.

    Parameters
    ----------
    user : callable, optional
        The loader's ``worker_init_fn``.
    reveal : callable
        Makes the user's own dataset the one that ``get_worker_info()`` shows.
    """

    def __init__(self, user: Callable[[int], None] | None, reveal: Callable[[], None]) -> None:
        self._user = user
        self._reveal = reveal
        # the death signal follows the creating thread, so only a main thread may ask for it
        self._tied = threading.current_thread() is threading.main_thread()
        self._trainer = os.getpid()
        self._collects = gc.isenabled()
        linux.prepare()  # here, not in the worker: the loader's lock may be held at the moment of a fork

    def __call__(self, worker: int) -> None:
        gc.freeze()
        if self._collects:
            gc.enable()
        if self._tied:
            linux.die_with_parent(self._trainer, signal.SIGKILL)
        self._reveal()
        if self._user is not None:
            self._user(worker)


class Single:
    """Collates a batch of one as if it had not been batched: positions loaders that do not batch."""

    def __init__(self, collate: Callable[[Any], Any]) -> None:
        self._collate = collate

    def __call__(self, samples: list[Any]) -> Any:
        return self._collate(samples[0])


class Handover:
    """A batch sampler that hands out indices prepared by us, set anew for each pass."""

    def __init__(self) -> None:
        self.prepared: Iterator[Any] = iter(())

    def __iter__(self) -> Iterator[Any]:
        return self.prepared

    def __len__(self) -> int:
        return 2**31  # never the truth: frameworks only ask when the user does, who asks their own loader
