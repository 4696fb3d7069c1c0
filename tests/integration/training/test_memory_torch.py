"""Optimizers of torch restored from memory: again and again, with data workers, forked from, damaged."""

from __future__ import annotations

import signal
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from tests.integration.training.launching import Tell, ended, launch, send_self, wait_until
from torch.utils.data import DataLoader, TensorDataset

import holdfast
from agents import agent_of

pytestmark = [
    pytest.mark.skipif(sys.platform != "linux", reason="memory shared without a name is Linux's"),
    pytest.mark.usefixtures("held_for_a_while"),
]
torch.set_num_threads(1)
RULE = "memory every 1 step, disk every 100 steps"
STEPS = 12
Act = Callable[[holdfast.Checkpointer, torch.optim.Optimizer, int], None]


def adamw(model: torch.nn.Module) -> torch.optim.Optimizer:
    return torch.optim.AdamW(model.parameters())


OPTIMIZERS: dict[str, Callable[[torch.nn.Module], torch.optim.Optimizer]] = {
    "adamw": adamw,
    "fused": lambda model: torch.optim.AdamW(model.parameters(), fused=True),
    "foreach": lambda model: torch.optim.Adam(model.parameters(), foreach=True, amsgrad=True),
    "momentum": lambda model: torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9),
    "lbfgs": lambda model: torch.optim.LBFGS(model.parameters(), max_iter=3),
}


def model_of(kind: str) -> torch.nn.Module:
    torch.manual_seed(3)
    if kind == "channels last":
        layers = [torch.nn.Unflatten(1, (16, 4, 4)), torch.nn.Conv2d(16, 128, 3), torch.nn.Flatten()]
        return torch.nn.Sequential(*layers, torch.nn.Linear(512, 8)).to(memory_format=torch.channels_last)
    wide = torch.nn.Sequential(torch.nn.Linear(256, 300), torch.nn.Tanh(), torch.nn.Linear(300, 8))
    return wide.to(torch.bfloat16) if kind == "bf16" else wide


def train(
    repository: Path,
    each: Act | None = None,
    *,
    kind: str = "plain",
    make: Callable[[torch.nn.Module], torch.optim.Optimizer] = adamw,
    workers: int = 0,
    save: str = RULE,
    **options: Any,
) -> dict[str, torch.Tensor]:
    """Fit noise; the model and what the optimizer keeps of it."""
    model = model_of(kind)
    optimizer = make(model)
    dtype = next(model.parameters()).dtype
    data = TensorDataset(torch.randn(96, 256, generator=torch.Generator().manual_seed(1)).to(dtype))
    loader = DataLoader(data, batch_size=8, shuffle=True, num_workers=workers)
    state = {"model": model, "optimizer": optimizer}
    with holdfast.Checkpointer(repository, state, save=save, **options) as ckpt:
        for _ in ckpt.epochs(STEPS * 8 // 96):
            for (batch,) in ckpt.batches(loader):

                def loss(batch: torch.Tensor = batch) -> torch.Tensor:
                    optimizer.zero_grad()
                    value = model(batch).float().square().mean()
                    value.backward()
                    return value

                optimizer.step(loss)
                ckpt.step()
                if each is not None:
                    each(ckpt, optimizer, ckpt.progress.step)
    return snapshot(model, optimizer)


def snapshot(model: torch.nn.Module, optimizer: torch.optim.Optimizer) -> dict[str, torch.Tensor]:
    kept = {
        f"{number}.{key}": torch.as_tensor(value).clone()
        for number, values in enumerate(optimizer.state.values())
        for key, value in values.items()
        if isinstance(value, torch.Tensor | int | float)
    }
    return {**{name: value.clone() for name, value in model.state_dict().items()}, **kept}


def killed_at(repository: Path, step: int, **options: Any) -> str:
    """A trainer that is killed after so many steps; what it said."""

    def run(tell: Tell) -> None:
        def each(ckpt: holdfast.Checkpointer, optimizer: torch.optim.Optimizer, now: int) -> None:
            agent_of(ckpt)  # it is there
            if now == step:
                send_self(signal.SIGKILL)

        train(repository, each, **options)

    code, said = ended(run)
    assert code == -signal.SIGKILL, said
    return said


def same(found: dict[str, torch.Tensor], expected: dict[str, torch.Tensor]) -> bool:
    return found.keys() == expected.keys() and all(torch.equal(found[n], expected[n]) for n in expected)


@pytest.mark.parametrize(
    ("kind", "optimizer"),
    [("plain", name) for name in OPTIMIZERS] + [("bf16", "adamw"), ("channels last", "adamw")],
)
def test_killed_again_and_again_it_ends_as_if_nothing_had_happened(
    kind: str, optimizer: str, tmp_path: Path
) -> None:
    how: Any = {"kind": kind, "make": OPTIMIZERS[optimizer]}
    expected = train(tmp_path / "whole", **how)
    killed_at(tmp_path / "killed", 3, **how)
    for step in (4, 7, 8, 10):
        said = killed_at(tmp_path / "killed", step, **how)
        assert "restored from memory" in said
    assert same(train(tmp_path / "killed", **how), expected)


def test_with_data_workers_and_without(tmp_path: Path) -> None:
    expected = train(tmp_path / "whole", workers=2)
    killed_at(tmp_path / "killed", 3, workers=2)
    said = killed_at(tmp_path / "killed", 5, workers=2)
    assert "restored from memory" in said
    killed_at(tmp_path / "killed", 9)  # the position is the same with and without workers
    assert same(train(tmp_path / "killed", workers=2), expected)


def test_who_is_forked_to_save_by_itself_saves_one_step(tmp_path: Path) -> None:
    killed_at(tmp_path, 3)

    def run(tell: Tell) -> None:
        forked = []

        def each(ckpt: holdfast.Checkpointer, optimizer: torch.optim.Optimizer, now: int) -> None:
            if now == 5:
                before = snapshot(torch.nn.Module(), optimizer)

                def look(tell: Tell) -> None:
                    tell("ready")
                    assert wait_until((tmp_path / "go").exists)
                    tell(str(same(snapshot(torch.nn.Module(), optimizer), before)))

                forked.append(launch(look))
            if now == 8:
                (tmp_path / "go").touch()

        train(tmp_path, each)
        assert forked[0].heard() == "ready"
        tell(forked[0].heard())
        forked[0].wait()

    process = launch(run)
    assert process.heard() == "True", process.said
    assert process.wait() == 0


def test_a_snapshot_in_which_a_tensor_went_bad_gives_the_others(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from holdfast.node.legacy import Legacy

    expected = train(tmp_path / "whole")
    killed_at(tmp_path / "killed", 3)
    tensors = Legacy.tensors

    def spoiled(self: Legacy, checkpoint: str) -> Any:
        found = tensors(self, checkpoint)
        bad = next(name for name, data in found.items() if "exp_avg" in name and len(data) > 1 << 16)
        found[bad][70_000] ^= 1
        return found

    monkeypatch.setattr(Legacy, "tensors", spoiled)
    said = killed_at(tmp_path / "killed", 6)
    assert "restored in" in said
    monkeypatch.setattr(Legacy, "tensors", tensors)
    assert same(train(tmp_path / "killed"), expected)


def test_a_session_entered_again_in_one_process_goes_on_exactly(tmp_path: Path) -> None:
    expected = train(tmp_path / "whole")
    killed_at(tmp_path / "killed", 3)

    def run(tell: Tell) -> None:
        def fail(ckpt: holdfast.Checkpointer, optimizer: torch.optim.Optimizer, now: int) -> None:
            agent_of(ckpt)
            if now == 5:
                raise RuntimeError("on purpose")

        def die(ckpt: holdfast.Checkpointer, optimizer: torch.optim.Optimizer, now: int) -> None:
            agent_of(ckpt)
            if now == 8:
                send_self(signal.SIGKILL)

        with pytest.raises(RuntimeError, match="on purpose"):
            train(tmp_path / "killed", fail)
        train(tmp_path / "killed", die)

    code, said = ended(run)
    assert code == -signal.SIGKILL, said
    assert said.count("restored from memory") == 2, said
    assert same(train(tmp_path / "killed"), expected)


def test_a_launch_that_saves_by_itself_takes_it_from_memory_too(tmp_path: Path) -> None:
    expected = train(tmp_path / "whole")
    killed_at(tmp_path / "killed", 5)
    assert same(train(tmp_path / "killed", save="every 2 steps", background=False), expected)
