"""A matrix of Paddle models, optimizers, schedulers and loaders, killed at random lines, resumes exactly."""

from __future__ import annotations

import functools
import os
import random
from pathlib import Path

import pytest
from tests import killing
from tests.integration.training import matrix_paddle

pytestmark = [
    pytest.mark.paddle,
    pytest.mark.filterwarnings("ignore:When training, we now always track global mean"),
]
KILLS = 2
CASES = [
    ("convolution", "adamw", "warm up", "shuffled"),
    ("convolution", "momentum", "plateau", "two workers"),
    ("recurrent", "lamb", "one cycle", "distributed"),
    ("recurrent", "adagrad", "constant", "sampler"),
    ("recurrent", "adamw", "plateau", "two workers"),
]


@pytest.fixture(scope="module", autouse=True)
def warm(tmp_path_factory: pytest.TempPathFactory) -> None:
    """Import here, once, what every forked child would import anew."""
    matrix_paddle.train(tmp_path_factory.mktemp("warm"), *CASES[0])


@pytest.mark.timeout(240)
@pytest.mark.parametrize("case", CASES, ids="-".join)
def test_killed_twice_it_ends_as_if_nothing_had_happened(
    case: tuple[str, ...], tmp_path: Path, saving: str
) -> None:
    chance = random.Random("-".join(case))
    model, optimizer, scheduler, loader = case
    script = functools.partial(
        matrix_paddle.train, model=model, optimizer=optimizer, scheduler=scheduler, loader=loader
    )
    lines = killing.lines_of(script, tmp_path / "whole")
    expected = killing.left_behind(tmp_path / "whole")
    points = []
    for _ in range(KILLS):
        points.append(chance.randrange(10, lines * 2 // 3))
        status = killing.run(script, tmp_path / "killed", signal_at=points[-1])
        assert os.WIFSIGNALED(status), f"not killed at line {points[-1]} of {lines}"
    assert killing.run(script, tmp_path / "killed") == 0
    assert killing.left_behind(tmp_path / "killed") == expected, f"killed at lines {points} of {lines}"
