"""A state whose structure changes between two saves of one run: each checkpoint holds what was there then."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

import holdfast

State = dict[str, Any]


def _state() -> State:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(300, 300), nn.BatchNorm1d(300), nn.Linear(300, 2))
    optimizer = torch.optim.AdamW(model.parameters())
    return {"model": model, "optimizer": optimizer, "log": []}


def _train(state: State) -> None:
    model, optimizer = state["model"], state["optimizer"]
    optimizer.zero_grad()
    first = next(model.parameters())
    model(torch.ones(4, 300, dtype=first.dtype)).sum().backward()
    optimizer.step()


def _changes() -> Iterator[Callable[[State], Any]]:
    yield lambda s: None  # the optimizer's state has come to be
    yield lambda s: None
    yield lambda s: s["log"].append(1)
    yield lambda s: s["model"][1].eval()
    yield lambda s: setattr(s["model"][0].weight, "data", torch.full((300, 300), 0.5))
    yield lambda s: setattr(s["model"][2].bias, "data", torch.full((2,), 0.5))
    yield lambda s: s["model"][2].bias.requires_grad_(False)
    yield lambda s: setattr(s["model"][1], "running_mean", torch.ones(300))
    yield lambda s: s["optimizer"].state[s["model"][0].weight].update(exp_avg=torch.ones(300, 300))
    yield lambda s: s["optimizer"].state[s["model"][0].weight].update(step=torch.tensor(9.0))
    yield lambda s: s["optimizer"].load_state_dict(s["optimizer"].state_dict())
    yield lambda s: s["model"].append(nn.Linear(2, 2))
    yield lambda s: s["optimizer"].add_param_group({"params": s["model"][3].parameters(), "lr": 0.5})
    yield lambda s: s["optimizer"].param_groups[0].update(lr=0.25)
    yield lambda s: s.update(average=torch.ones(3))
    yield lambda s: s.pop("average")
    yield lambda s: (s["model"].double(), s["optimizer"].state.clear())
    yield lambda s: None


def _held(repository: Path) -> dict[int, Any]:
    """Everything of a checkpoint but random states and the like, by step."""
    checkpoints = list(holdfast.open(repository)["main"])
    for checkpoint in checkpoints:
        checkpoint.verify()
    manifests = {checkpoint.step: checkpoint.manifest() for checkpoint in checkpoints}
    return {step: (found.details.tree, found.tensors) for step, found in manifests.items()}


@pytest.mark.parametrize("way", ["loop", "background", "fenced"])
def test_each_checkpoint_holds_what_a_capture_anew_gives(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, way: str
) -> None:
    if way != "loop" and sys.platform != "linux":
        pytest.skip("memory shared without a name is Linux's")
    if way == "fenced":
        monkeypatch.setattr("holdfast.training.fencing.CHECKED_SAVES", 0)
    changes = list(_changes())
    state = _state()
    run = tmp_path / "run"
    with holdfast.Checkpointer(
        run,
        state,
        save="every 1 steps",
        keep=f"last {len(changes)}",
        background=way != "loop",
        on_busy="wait",
        signals=False,
    ) as ckpt:
        for turn in ckpt.steps(len(changes)):
            _train(state)
            changes[turn](state)
            holdfast.save(tmp_path / "anew", state, step=turn + 1)
    ran, anew = _held(run), _held(tmp_path / "anew")
    assert sorted(ran) == sorted(anew) == list(range(1, len(changes) + 1))
    assert [step for step in ran if ran[step] != anew[step]] == []
