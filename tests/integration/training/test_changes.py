"""Values that the script gives, changed between two launches: refused, kept or applied; alike everywhere."""

from __future__ import annotations

import argparse
import dataclasses
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import paddle
import pytest
import torch
from tests.integration.training.launching import steps_in

import holdfast
from holdfast.errors import ChangedError

torch.set_num_threads(1)
Parts = dict[str, Any]
Said = pytest.CaptureFixture[str]


def torch_parts(lr: float, decay: float, t_max: int) -> Parts:
    model = torch.nn.Linear(2, 1)
    optimizer = torch.optim.AdamW(model.parameters(), lr=lr, weight_decay=decay)
    scheduler = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, T_max=t_max)
    return {"model": model, "optimizer": optimizer, "scheduler": scheduler}


def torch_seen(parts: Parts) -> tuple[float, float, int]:
    group = parts["optimizer"].param_groups[0]
    return group["initial_lr"], group["weight_decay"], parts["scheduler"].T_max


def torch_step(parts: Parts) -> None:
    parts["model"](torch.ones(1, 2)).sum().backward()
    parts["optimizer"].step()
    parts["optimizer"].zero_grad()
    parts["scheduler"].step()


def paddle_parts(lr: float, decay: float, t_max: int) -> Parts:
    model = paddle.nn.Linear(2, 1)
    scheduler = paddle.optimizer.lr.CosineAnnealingDecay(lr, T_max=t_max)
    optimizer = paddle.optimizer.AdamW(scheduler, parameters=model.parameters(), weight_decay=decay)
    return {"model": model, "optimizer": optimizer, "scheduler": scheduler}


def paddle_seen(parts: Parts) -> tuple[float, float, int]:
    decay = parts["optimizer"]._default_dict["weight_decay"]
    return parts["scheduler"].base_lr, decay, parts["scheduler"].T_max


def paddle_step(parts: Parts) -> None:
    parts["model"](paddle.ones([1, 2])).sum().backward()
    parts["optimizer"].step()
    parts["optimizer"].clear_grad()
    parts["scheduler"].step()


FRAMEWORKS = [
    pytest.param((torch_parts, torch_step, torch_seen), id="torch"),
    pytest.param((paddle_parts, paddle_step, paddle_seen), id="paddle", marks=pytest.mark.paddle),
]
Framework = tuple[Callable[..., Parts], Callable[[Parts], None], Callable[[Parts], tuple[float, float, int]]]
OLD, NEW = (0.1, 0.01, 10), (0.2, 0.02, 20)


def launch(
    repository: Path, framework: Framework, values: tuple[float, float, int], **options: Any
) -> tuple[Parts, holdfast.Checkpointer]:
    parts, step, _ = framework
    state = parts(*values)
    with holdfast.Checkpointer(repository, state, save=None, **options) as ckpt:
        for _ in ckpt.steps(ckpt.progress.step + 2):
            step(state)
    return state, ckpt


@pytest.mark.parametrize("framework", FRAMEWORKS)
def test_refuse_lists_every_change_in_one_error_and_touches_nothing(
    framework: Framework, tmp_path: Path
) -> None:
    launch(tmp_path, framework, OLD, config={"batch": 4, "seed": 0})
    state = framework[0](*NEW)
    before = [np.array(p.detach().numpy()) for p in state["model"].parameters()]
    with pytest.raises(ChangedError) as caught:
        holdfast.Checkpointer(tmp_path, state, config={"batch": 8, "seed": 0}).__enter__()
    said = str(caught.value)
    for part in ("weight_decay", "0.01", "0.02", "T_max", "10", "20", "config.batch", "4", "8", "0.2"):
        assert part in said
    assert "seed" not in said
    after = [p.detach().numpy() for p in state["model"].parameters()]
    assert all(np.array_equal(a, b) for a, b in zip(before, after, strict=True))
    assert framework[2](state) == NEW
    assert steps_in(tmp_path) == [2]
    launch(tmp_path, framework, OLD, config={"batch": 4, "seed": 0})


@pytest.mark.parametrize("framework", FRAMEWORKS)
def test_keep_goes_on_with_the_recorded_values(framework: Framework, tmp_path: Path, capsys: Said) -> None:
    launch(tmp_path, framework, OLD, config={"batch": 4})
    state, _ = launch(tmp_path, framework, NEW, config={"batch": 8, "new": 1}, changed="keep")
    assert framework[2](state) == OLD
    said = capsys.readouterr().err
    assert said.count("Going on with the recorded values") == 1
    assert "config.batch" in said
    # ... which stay the recorded ones: the old script resumes without a word
    launch(tmp_path, framework, OLD, config={"batch": 4, "new": 1})
    assert "WARNING" not in capsys.readouterr().err


@pytest.mark.parametrize("framework", FRAMEWORKS)
def test_apply_goes_on_with_the_scripts_values(framework: Framework, tmp_path: Path, capsys: Said) -> None:
    launch(tmp_path, framework, OLD, config={"batch": 4})
    state, ckpt = launch(tmp_path, framework, NEW, config={"batch": 8}, changed="apply")
    assert framework[2](state) == NEW
    assert ckpt.restored.config == {"batch": 4}
    assert capsys.readouterr().err.count("Going on with the script's new values") == 1
    assert holdfast.open(tmp_path)["main"].latest.config == {"batch": 8}
    launch(tmp_path, framework, NEW, config={"batch": 8})  # from here on they are the recorded ones
    with pytest.raises(ChangedError):
        launch(tmp_path, framework, OLD, config={"batch": 4})


@pytest.mark.parametrize("framework", FRAMEWORKS)
def test_the_learning_rate_that_follows_is_that_of_the_chosen_values(
    framework: Framework, tmp_path: Path
) -> None:
    """After `apply` as if the run had had the new base all along; after `keep` as if nothing were new."""

    def rate(state: Parts) -> float:
        optimizer = state["optimizer"]
        return optimizer.get_lr() if hasattr(optimizer, "get_lr") else optimizer.param_groups[0]["lr"]

    launch(tmp_path / "old", framework, OLD)
    expected, _ = launch(tmp_path / "old", framework, OLD)
    launch(tmp_path / "keep", framework, OLD)
    kept, _ = launch(tmp_path / "keep", framework, NEW, changed="keep")
    assert rate(kept) == rate(expected)
    launch(tmp_path / "apply", framework, OLD)
    applied, _ = launch(tmp_path / "apply", framework, (0.2, 0.01, 10), changed="apply")
    assert rate(applied) == pytest.approx(2 * rate(expected), rel=1e-6)


@dataclasses.dataclass
class Config:
    lr: float
    layers: list[int]


def test_config_may_be_a_namespace_or_a_dataclass(tmp_path: Path) -> None:
    for name, old, new in (
        ("n", argparse.Namespace(lr=0.1, layers=[1, 2]), argparse.Namespace(lr=0.1, layers=[1, 3])),
        ("d", Config(0.1, [1, 2]), Config(0.1, [1, 3])),
    ):
        for config in (old, old):
            with holdfast.Checkpointer(tmp_path / name, {"a": 1}, config=config) as ckpt:
                list(ckpt.steps(2))
        with pytest.raises(ChangedError, match=r"config\.layers.*1, 2.*1, 3"):
            holdfast.Checkpointer(tmp_path / name, {"a": 1}, config=new).__enter__()


def test_an_entry_that_comes_or_goes_is_a_change(tmp_path: Path) -> None:
    for config in ({"lr": 1}, {"lr": 1, "new": 2}, {"lr": 1}):
        with holdfast.Checkpointer(tmp_path, {"a": 1}, config=config, changed="apply") as ckpt:
            list(ckpt.steps(ckpt.progress.step + 1))
    for config in ({}, {"lr": 1, "new": 2}):
        with pytest.raises(ChangedError, match="nothing"):
            holdfast.Checkpointer(tmp_path, {"a": 1}, config=config).__enter__()
