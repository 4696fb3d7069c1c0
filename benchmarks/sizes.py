"""The models of the benchmarks, as numbers: a GPT beside convolutions, and GPTs alone."""

from __future__ import annotations

from typing import NamedTuple


class Sizes(NamedTuple):
    vocabulary: int
    positions: int
    width: int
    layers: int
    small_blocks: int
    small_width: int = 64


FULL = Sizes(vocabulary=57_000, positions=1024, width=768, layers=12, small_blocks=150)
QUICK = Sizes(vocabulary=30_000, positions=512, width=256, layers=6, small_blocks=50)


class Shape(NamedTuple):
    """Of a model and its batches, and how long it is trained in a benchmark.

    Attributes
    ----------
    batch, context : int
        Chosen so that forward and backward last longer than a copy of the state in memory.
    rotations : int
        How often every contender has its turn.
    segment_steps : int
        Steps of a turn, with a save every ten.
    long_turn : bool
        Whether the last turn goes on for a hundred steps with one save, even if nobody asks for it.
    """

    width: int
    layers: int
    batch: int
    context: int
    rotations: int
    segment_steps: int
    long_turn: bool


SHAPES = {
    "10MB": Shape(128, 4, batch=2, context=128, rotations=3, segment_steps=60, long_turn=True),
    "150MB": Shape(512, 4, batch=1, context=128, rotations=2, segment_steps=30, long_turn=False),
    "1.5GB": Shape(1024, 10, batch=1, context=128, rotations=2, segment_steps=20, long_turn=False),
}
