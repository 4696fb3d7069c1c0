"""Two ranks without a framework, as processes of a script."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

import holdfast

NESTED = """
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


STOPPED = """
import holdfast

state = {"sum": 0.0}
with holdfast.Checkpointer("r", state, save=None, on_finding="not-finite: stop", keep="all") as ckpt:
    while ckpt.progress.step < 9:
        state["sum"] += 1
        ckpt.step(loss=float("nan") if ckpt.progress.step == 4 else 1.0)
"""


EVALUATED = """
import os
import holdfast

state = {"sum": 0.0}
with holdfast.Checkpointer("r", state, save="every 3 steps", keep="all") as ckpt:
    for epoch in LOOP:
        for batch in ckpt.batches([1.0, 2.0, 3.0, 4.0]):
            state["sum"] += batch
            ckpt.step()
        if os.environ["RANK"] == "0":
            assert sum(ckpt.batches([5.0] * 6)) == 30.0
print(state["sum"])
"""


def launched(place: Path, script: str, *words: str) -> list[str]:
    """What each of two ranks prints."""
    place.mkdir(exist_ok=True)
    command = [sys.executable, "-c", script, *words]
    told = {"WORLD_SIZE": "2", "LOCAL_WORLD_SIZE": "2"}
    ranks = [
        subprocess.Popen(
            command, env=os.environ | told | {"RANK": str(rank)}, cwd=place, stdout=subprocess.PIPE, text=True
        )
        for rank in range(2)
    ]
    return [rank.communicate(timeout=100)[0] for rank in ranks]


def test_generators_are_those_of_the_outer_one_on_every_rank(tmp_path: Path) -> None:
    whole = launched(tmp_path / "whole", NESTED, "0")
    assert launched(tmp_path / "cut", NESTED, "7") == ["", ""]
    assert launched(tmp_path / "cut", NESTED, "0") == whole


def test_a_stop_that_a_loop_of_ones_own_does_not_heed_is_saved_for_once(tmp_path: Path) -> None:
    launched(tmp_path, STOPPED)
    assert [checkpoint.step for checkpoint in holdfast.open(tmp_path / "r")["main"]] == [6, 9]


@pytest.mark.parametrize("loop", ["ckpt.epochs(3)", "range(3)"])
def test_a_pass_that_only_one_rank_makes_for_an_evaluation_holds_up_no_save(
    loop: str, tmp_path: Path
) -> None:
    assert launched(tmp_path, EVALUATED.replace("LOOP", loop)) == ["30.0\n", "30.0\n"]
    steps = [checkpoint.step for checkpoint in holdfast.open(tmp_path / "r")["main"]]
    assert sorted(set(steps)) == [3, 6, 9, 12]
