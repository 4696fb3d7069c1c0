"""Training whose state at any step is known beforehand: what every restore is compared with.

It is a pure function of a run's line (its seeds, each from some step on) and the step. Trainers never
use that function: they take one step after the other, from what they restored. So a wrong bit at any
time is a difference at every later one.
"""

from __future__ import annotations

import random
from functools import lru_cache
from typing import Any

import msgspec
import numpy as np
import numpy.typing as npt

State = dict[str, Any]
SIZES = (12_000, 40_000, 120_000, 400_000)
"""Numbers in the tensors that drift; the state takes about twelve times as many bytes."""


class Segment(msgspec.Struct, frozen=True):
    """From this step on, steps are taken with this seed."""

    begin: int
    seed: int


class Line(msgspec.Struct, frozen=True):
    """Where a run comes from: its own segment last, those of runs that it was forked from before."""

    segments: list[Segment]

    @classmethod
    def of(cls, seed: int) -> Line:
        return cls([Segment(0, seed)])

    def forked(self, step: int, seed: int) -> Line:
        return Line([*(s for s in self.segments if s.begin < step), Segment(step, seed)])

    @property
    def root(self) -> int:
        return self.segments[0].seed

    def counts(self, step: int) -> list[tuple[int, int]]:
        """Seeds, each with how many of the first so many steps were taken with it."""
        ends = [*(s.begin for s in self.segments[1:]), step]
        return [
            (s.seed, min(end, step) - s.begin)
            for s, end in zip(self.segments, ends, strict=True)
            if s.begin < step
        ]

    def seed_after(self, step: int) -> int:
        """With which seed the step after this one is taken."""
        return next(s.seed for s in reversed(self.segments) if s.begin <= step)


def fresh(line: Line) -> State:
    """The state before the first step; also seeds Python's generator, which a Checkpointer keeps."""
    random.seed(line.root)
    return _state(line, 0, _weights(line.root), _halves(line.root), np.random.PCG64(line.root))


def advance(state: State, line: Line) -> None:
    """Take one step, in place."""
    seed = line.seed_after(state["step"])
    state["weights"].view(np.uint32)[...] += _drift(line.root, seed, np.uint32)
    state["halves"][...] += _drift(line.root, seed, np.uint16)
    state["short"][...] = state["weights"]
    state["noise"][...] = _noise(seed, state["generator"].bit_generator.random_raw())
    state["step"] += 1
    state["words"] = _words(line, state["step"], random.random())


def expected(line: Line, step: int) -> State:
    """The state after so many steps, without taking them."""
    weights, halves = _weights(line.root), _halves(line.root)
    for seed, count in line.counts(step):
        weights.view(np.uint32)[...] += _drift(line.root, seed, np.uint32) * np.uint32(count)
        halves += _drift(line.root, seed, np.uint16) * np.uint16(count)
    bits = np.random.PCG64(line.root)
    if step:
        bits.advance(step - 1)
    return _state(line, step, weights, halves, bits)


def differences(state: State, wanted: State) -> list[str]:
    """Entries that are not the same to the last bit."""
    names = sorted(state.keys() | wanted.keys())
    return [n for n in names if n not in state or n not in wanted or _plain(state[n]) != _plain(wanted[n])]


def _plain(value: Any) -> Any:
    if isinstance(value, np.ndarray):
        return value.dtype.str, value.shape, value.tobytes()
    return value.bit_generator.state if isinstance(value, np.random.Generator) else value


def _state(
    line: Line, step: int, weights: npt.NDArray[Any], halves: npt.NDArray[Any], bits: np.random.PCG64
) -> State:
    drawn = bits.random_raw() if step else 0
    luck = random.Random(line.root)
    lucks = [0.0, *(luck.random() for _ in range(step))]
    return {
        "weights": weights,
        "halves": halves,
        "short": weights.astype(np.float16),
        "frozen": _numbers(line.root, 2),
        "noise": _noise(line.seed_after(max(step - 1, 0)), drawn),
        "generator": np.random.Generator(bits),
        "step": step,
        "words": _words(line, step, lucks[-1]),
    }


def _words(line: Line, step: int, luck: float) -> dict[str, Any]:
    return {"seeds": [seed for seed, _ in line.counts(step)], "luck": luck, "even": step % 2 == 0, step: None}


def _size(root: int) -> int:
    return SIZES[root % len(SIZES)]


def _numbers(root: int, stream: int) -> npt.NDArray[np.float32]:
    made = np.random.default_rng([root, stream]).standard_normal(_size(root), np.float32)
    return made * np.float32(0.02)


def _weights(root: int) -> npt.NDArray[np.float32]:
    return _numbers(root, 0)


def _halves(root: int) -> npt.NDArray[np.uint16]:
    """As bfloat16 looks in NumPy."""
    return (_numbers(root, 1).view(np.uint32) >> np.uint32(16)).astype(np.uint16)


@lru_cache(maxsize=16)
def _drift(root: int, seed: int, dtype: Any) -> npt.NDArray[Any]:
    """A few units in the last place, of about every third number; whole numbers, so steps add up exactly."""
    chosen = np.random.default_rng([seed, 3]).integers(0, 9, _size(root), np.uint8)
    return np.where(chosen < 3, chosen, 0).astype(dtype)


def _noise(seed: int, drawn: int) -> npt.NDArray[np.uint8]:
    return np.random.default_rng([seed, drawn]).integers(0, 256, 4096, np.uint8)
