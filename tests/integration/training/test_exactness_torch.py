"""A matrix of models, optimizers, schedulers and loaders, killed at random lines, resumes exactly."""

from __future__ import annotations

import functools
import os
import random
from pathlib import Path

import pytest
import torch
from tests import killing
from tests.integration.training import matrix_torch

pytestmark = pytest.mark.filterwarnings("ignore:'set_vital' is deprecated")
torch.set_num_threads(1)
KILLS = 2

# Every choice of each column occurs, and those that share mechanisms meet.
CASES = [
    ("convolution", "adamw", "one cycle", "shuffled"),
    ("convolution", "sgd", "plateau", "two workers"),
    ("recurrent", "amsgrad", "sequence", "persistent"),
    ("recurrent", "lbfgs", "lambda", "list"),
    ("attention", "rmsprop", "restarts", "weighted"),
    ("attention", "nadam", "chained", "own generator"),
    ("convolution", "adagrad", "sequence", "stream"),
    ("recurrent", "radam", "plateau", "stateful"),
    ("attention", "adamw", "lambda", "two workers"),
]


@pytest.fixture(scope="module", autouse=True)
def warm(tmp_path_factory: pytest.TempPathFactory) -> None:
    """Import here, once, what every forked child would import anew."""
    matrix_torch.train(tmp_path_factory.mktemp("warm"), *CASES[0])


@pytest.mark.timeout(240)
@pytest.mark.parametrize("case", CASES, ids="-".join)
def test_killed_twice_it_ends_as_if_nothing_had_happened(
    case: tuple[str, ...], tmp_path: Path, saving: str
) -> None:
    chance = random.Random("-".join(case))
    script = functools.partial(
        matrix_torch.train, model=case[0], optimizer=case[1], scheduler=case[2], loader=case[3]
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
