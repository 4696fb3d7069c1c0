"""A fork that goes on unchanged goes on exactly as its source does, from within an epoch too."""

from __future__ import annotations

import functools
import os
from pathlib import Path

import pytest
import torch
from tests import killing
from tests.integration.training import matrix_torch

import holdfast
from holdfast.errors import ChangedError

pytestmark = pytest.mark.filterwarnings("ignore:'set_vital' is deprecated")
torch.set_num_threads(1)
CASES = [
    ("convolution", "adamw", "one cycle", "shuffled"),
    ("recurrent", "sgd", "plateau", "two workers"),
    ("attention", "adagrad", "sequence", "stream"),
]


@pytest.fixture(scope="module", autouse=True)
def warm(tmp_path_factory: pytest.TempPathFactory) -> None:
    """Import here, once, what every forked child would import anew."""
    matrix_torch.train(tmp_path_factory.mktemp("warm"), *CASES[0])


@pytest.mark.timeout(240)
@pytest.mark.parametrize("case", CASES, ids="-".join)
def test_a_fork_continued_unchanged_is_bit_identical(
    case: tuple[str, ...], tmp_path: Path, saving: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    script = functools.partial(
        matrix_torch.train, model=case[0], optimizer=case[1], scheduler=case[2], loader=case[3]
    )
    lines = killing.lines_of(script, tmp_path / "whole")
    expected = killing.left_behind(tmp_path / "whole")
    status = killing.run(script, tmp_path / "killed", signal_at=lines // 2)
    assert os.WIFSIGNALED(status)
    forked_from = holdfast.open(tmp_path / "killed")["main"].latest
    assert forked_from.summary.progress.batch > 0, "it must be within an epoch"
    forked_from.fork("branch")
    assert killing.run(script, tmp_path / "killed") == 0
    monkeypatch.setenv("HOLDFAST_RUN", "branch")
    assert killing.run(script, tmp_path / "killed") == 0
    assert killing.left_behind(tmp_path / "killed") == expected
    assert killing.left_behind(tmp_path / "killed", "branch") == expected


def _train(place: Path, run: str, lr: float, total: int, changed: str = "refuse") -> list[float]:
    torch.manual_seed(0)
    model = torch.nn.Linear(3, 1)
    optimizer = torch.optim.SGD(model.parameters(), lr=lr)
    losses: list[float] = []
    state = {"model": model, "optimizer": optimizer, "losses": losses}
    with holdfast.Checkpointer(place, state, run=run, save=None, changed=changed) as ckpt:
        for _ in ckpt.steps(total):
            loss = model(torch.randn(4, 3)).square().mean()
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            state["losses"].append(loss.item())
            ckpt.step(loss=loss)
    return state["losses"]


def test_three_rates_from_one_warm_up(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOLDFAST_BACKGROUND", "0")
    warm_up = _train(tmp_path, "warm-up", 0.1, 5)
    runs = {"low": 0.01, "same": 0.1, "high": 0.3}
    for name in runs:
        holdfast.open(tmp_path)["warm-up"].latest.fork(name)
    with pytest.raises(ChangedError, match=r"optimizer\.lr"):
        _train(tmp_path, "low", 0.01, 10)
    found = {name: _train(tmp_path, name, lr, 10, changed="apply") for name, lr in runs.items()}
    assert all(losses[:5] == warm_up for losses in found.values())
    assert len({tuple(losses) for losses in found.values()}) == 3
    assert found["same"] == _train(tmp_path, "warm-up", 0.1, 10)
    assert found["same"] == _train(tmp_path / "alone", "alone", 0.1, 10)
    assert {len(view) for view in holdfast.open(tmp_path).runs()} == {2}


def test_a_fork_of_a_finished_run_has_finished(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOLDFAST_BACKGROUND", "0")
    before = _train(tmp_path, "done", 0.1, 5)
    view = holdfast.open(tmp_path)["done"].latest.fork("again")
    assert view.name == "again"
    assert _train(tmp_path, "again", 0.1, 5) == before
    assert [c.step for c in view] == [5]


def test_only_new_runs_are_forked_into(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOLDFAST_BACKGROUND", "0")
    _train(tmp_path, "one", 0.1, 2)
    found = holdfast.open(tmp_path)["one"].latest
    with pytest.raises(holdfast.UsageError, match="There is a run one already"):
        found.fork("one")
    with pytest.raises(holdfast.UsageError, match="cannot name a run"):
        found.fork("../x")
