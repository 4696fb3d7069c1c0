"""The model of the benchmark, as numbers: a small GPT beside a tower of convolutions with batch norm."""

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
