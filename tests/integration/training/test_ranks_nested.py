"""Two Checkpointers, one within the other, on every rank: what belongs to the outer one stays its own."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

SCRIPT = """
import os, sys
import numpy as np
import holdfast

rank, until = int(os.environ["RANK"]), int(sys.argv[1])
np.random.seed(100 + rank)
outer_state, inner_state = {"drawn": []}, {"sum": 0.0}
with holdfast.Checkpointer("r", outer_state, run="outer", save="every 1 step") as outer:
    with holdfast.Checkpointer("r", inner_state, run="inner", save="every 5 steps") as inner:
        while outer.progress.step < 9:
            number = float(np.random.rand())
            outer_state["drawn"].append(number)
            inner_state["sum"] += number
            inner.step()
            if outer.step() == until:
                os._exit(0)
print(outer_state["drawn"])
"""


def launched(place: Path, until: int) -> list[str]:
    """What each of two ranks prints."""
    place.mkdir(exist_ok=True)
    command = [sys.executable, "-c", SCRIPT, str(until)]
    told = {"WORLD_SIZE": "2", "LOCAL_WORLD_SIZE": "2"}
    ranks = [
        subprocess.Popen(
            command, env=os.environ | told | {"RANK": str(rank)}, cwd=place, stdout=subprocess.PIPE, text=True
        )
        for rank in range(2)
    ]
    return [rank.communicate(timeout=100)[0] for rank in ranks]


def test_generators_are_those_of_the_outer_one_on_every_rank(tmp_path: Path) -> None:
    whole = launched(tmp_path / "whole", 0)
    assert launched(tmp_path / "cut", 7) == ["", ""]
    assert launched(tmp_path / "cut", 0) == whole
