"""The fence: what only an optimizer's step changes is copied behind forward and backward."""

from __future__ import annotations

import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from tests.integration.training.launching import run_of, steps_in, wait_until
from torch import nn

import holdfast
from agents import agents_of
from holdfast.node.link import AgentUnavailableError
from holdfast.training import fencing, staging
from holdfast.training.conversation import Conversation

Said = pytest.CaptureFixture[str]
pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="memory shared without a name is Linux's")
WIDTH = 256  # a weight of 256 KiB: large enough to be fenced
Change = Callable[[nn.Module], None]


@pytest.fixture(autouse=True)
def in_background(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[None]:
    monkeypatch.setenv("HOLDFAST_BACKGROUND", "1")
    yield
    if (tmp_path / "holdfast.json").exists():
        assert wait_until(lambda: not agents_of(tmp_path))


@pytest.fixture
def trusted(monkeypatch: pytest.MonkeyPatch) -> None:
    """Use the fence from the first save on."""
    monkeypatch.setattr(fencing, "CHECKED_SAVES", 0)


@pytest.fixture
def slow_copies(monkeypatch: pytest.MonkeyPatch) -> None:
    """The helping thread is late: nearly all is left for the moment before the step."""
    copied = staging._copied

    def late(target: Any, source: Any) -> bool:
        if threading.current_thread() is not threading.main_thread():
            time.sleep(0.05)
        return copied(target, source)

    monkeypatch.setattr(staging, "_copied", late)


class Net(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.embed = nn.Embedding(300, WIDTH, max_norm=1.0)
        self.body = nn.Sequential(nn.Linear(WIDTH, WIDTH), nn.BatchNorm1d(WIDTH), nn.Linear(WIDTH, 1))

    def forward(self, tokens: torch.Tensor) -> torch.Tensor:
        return self.body(self.embed(tokens))


def bits(state: dict[str, Any]) -> dict[str, bytes]:
    """Every tensor of model and optimizer."""
    found = {name: t.detach().numpy().tobytes() for name, t in state["model"].state_dict().items()}
    for key in ("optimizer", "second"):
        for number, entry in (state[key].state_dict()["state"] if key in state else {}).items():
            tensors = {n: v for n, v in entry.items() if isinstance(v, torch.Tensor)}
            found |= {f"{key}.{number}.{n}": v.numpy().tobytes() for n, v in tensors.items()}
    return found


OPTIMIZERS: dict[str, Callable[[Any], torch.optim.Optimizer]] = {
    "adamw": lambda p: torch.optim.AdamW(p, lr=1e-2),
    "foreach": lambda p: torch.optim.AdamW(p, lr=1e-2, foreach=True),
    "fused": lambda p: torch.optim.AdamW(p, lr=1e-2, fused=True),
    "sgd": lambda p: torch.optim.SGD(p, lr=1e-2, momentum=0.9),
    "lbfgs": lambda p: torch.optim.LBFGS(p, lr=1e-2, max_iter=2),
}


def train(
    repository: Path,
    make: Callable[[Any], torch.optim.Optimizer],
    *,
    change: Change | None = None,
    accumulate: int = 1,
    steps: int = 6,
) -> list[dict[str, bytes]]:
    """Train, saving every step; returns what the state was at each save."""
    torch.manual_seed(0)
    model = Net()
    state: dict[str, Any] = {"model": model, "optimizer": make(model.parameters())}
    were = []
    with holdfast.Checkpointer(repository, state, save="every 1 step", keep="all") as ckpt:
        for t in ckpt.steps(steps * accumulate):
            if change is not None and t:
                change(model)  # right after the fence has opened

            def closure() -> torch.Tensor:
                loss = model(torch.randint(0, 300, (8,))).square().mean()
                loss.backward()
                return loss

            if isinstance(state["optimizer"], torch.optim.LBFGS):
                state["optimizer"].step(closure)
                state["optimizer"].zero_grad()
            else:
                closure()
                if (t + 1) % accumulate == 0:
                    state["optimizer"].step()
                    state["optimizer"].zero_grad()
            were.append(bits(state))
    return were[accumulate - 1 :: accumulate]


def saved(
    repository: Path, make: Callable[[Any], torch.optim.Optimizer], *, least: int = 0
) -> dict[int, dict[str, bytes]]:
    """What each checkpoint from this step on holds, read back."""
    found = {}
    for checkpoint in [c for c in run_of(repository).checkpoints() if c.step >= least]:
        model = Net()
        state = {"model": model, "optimizer": make(model.parameters())}
        holdfast.load(repository, state, at=checkpoint.step)
        found[checkpoint.step] = bits(state)
    return found


@pytest.mark.parametrize("name", OPTIMIZERS)
@pytest.mark.usefixtures("trusted", "slow_copies")
def test_every_snapshot_is_of_one_step(name: str, tmp_path: Path) -> None:
    were = train(tmp_path, OPTIMIZERS[name])
    assert saved(tmp_path, OPTIMIZERS[name]) == dict(enumerate(were, start=1))


@pytest.mark.usefixtures("trusted", "slow_copies")
def test_with_gradients_accumulated(tmp_path: Path) -> None:
    were = train(tmp_path, OPTIMIZERS["adamw"], accumulate=3)
    found = saved(tmp_path, OPTIMIZERS["adamw"])
    assert list(found.values()) == were


@pytest.mark.usefixtures("trusted", "slow_copies")
def test_the_next_step_waits_for_the_copy(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    closed: list[bool] = []
    finish = staging.Fence.finish

    def noted(fence: staging.Fence) -> None:
        closed.append(bool(fence._left) and fence._helper is not None)
        finish(fence)

    monkeypatch.setattr(staging.Fence, "finish", noted)
    train(tmp_path, OPTIMIZERS["adamw"])
    assert any(closed), "nothing was ever left to copy: this test proves nothing"


@pytest.mark.usefixtures("trusted")
def test_what_could_not_be_copied_is_no_checkpoint(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: Said
) -> None:
    monkeypatch.setattr("holdfast.training.saving.FIRST_PAUSE_SECONDS", 0.0)
    copied, tries = staging._copied, []

    def failing(target: Any, source: Any) -> bool:
        tries.append(target)
        if len(tries) == 20:
            raise RuntimeError("device-side assert triggered")
        return copied(target, source)

    monkeypatch.setattr(staging, "_copied", failing)
    were = dict(enumerate(train(tmp_path, OPTIMIZERS["adamw"]), start=1))
    found = saved(tmp_path, OPTIMIZERS["adamw"])
    assert len(found) == 5
    assert found == {step: were[step] for step in found}
    assert "could not be copied: RuntimeError: device-side assert" in capsys.readouterr().err


@pytest.mark.usefixtures("trusted")
def test_a_trainer_left_alone_amid_a_save_copies_all_of_it_first(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: Said
) -> None:
    staged = staging.stage

    def left_alone(*arguments: Any, **options: Any) -> staging.Fence:
        fence = staged(*arguments, **options)
        monkeypatch.setattr(Conversation, "ready", no_agent)
        return fence

    def no_agent(*_: Any) -> bool:
        raise AgentUnavailableError("it does not answer")

    monkeypatch.setattr("holdfast.training.background.stage", left_alone)
    were = train(tmp_path, OPTIMIZERS["adamw"])
    assert "saves hold up training from now on" in capsys.readouterr().err
    assert saved(tmp_path, OPTIMIZERS["adamw"]) == dict(enumerate(were, start=1))


@pytest.mark.usefixtures("trusted", "slow_copies")
@pytest.mark.parametrize("asked", [False, True])
def test_the_step_of_one_that_came_later_waits_too(asked: bool, tmp_path: Path, capsys: Said) -> None:
    torch.manual_seed(0)
    state: dict[str, Any] = {"model": Net()}
    state["optimizer"] = torch.optim.SGD(state["model"].parameters(), lr=1e-2)
    were = []
    save = None if asked else "every 1 step"
    with holdfast.Checkpointer(tmp_path, state, save=save, keep="all", background=True) as ckpt:
        while ckpt.progress.step < 6:
            if ckpt.progress.step == 2:  # a new phase
                state["optimizer"] = OPTIMIZERS["fused"](state["model"].parameters())
            state["model"](torch.randint(0, 300, (8,))).square().mean().backward()
            state["optimizer"].step()
            state["optimizer"].zero_grad()
            ckpt.step()
            were.append(bits(state))
            if asked:
                ckpt.save()
    assert "WARNING" not in capsys.readouterr().err
    found = saved(tmp_path, OPTIMIZERS["fused"], least=3)
    assert found == {step: were[step - 1] for step in found}
    assert len(found) == 4


def test_saves_without_an_optimizer_prove_nothing_for_it(tmp_path: Path) -> None:
    state: dict[str, Any] = {"model": Net()}
    compares = []
    with holdfast.Checkpointer(tmp_path, state, save="every 1 step") as ckpt:
        for t in ckpt.steps(10):
            if t == 4:
                state["optimizer"] = OPTIMIZERS["adamw"](state["model"].parameters())
            state["model"](torch.randint(0, 300, (8,))).square().mean().backward()
            if "optimizer" in state:
                state["optimizer"].step()
            state["model"].zero_grad()
            compares.append(ckpt._entered._saver._way._fencing.compares)
    assert compares == [True] * 6 + [False] * 4


def clamp(model: nn.Module) -> None:
    with torch.no_grad():
        model.body[0].weight.clamp_(-0.01, 0.01)


def clamp_data(model: nn.Module) -> None:
    """As many scripts do it; no version counter moves."""
    model.body[0].weight.data.mul_(0.99)


@pytest.mark.parametrize("change", [clamp, clamp_data], ids=["in place", ".data"])
def test_parameters_changed_by_the_user_are_noticed_by_the_first_saves(
    change: Change, tmp_path: Path, capsys: Said
) -> None:
    train(tmp_path, OPTIMIZERS["adamw"], change=change)
    assert capsys.readouterr().err.count("parameters change outside of the optimizer's step") == 1
    assert steps_in(tmp_path) == [1, 2, 3, 4, 5, 6]


@pytest.mark.parametrize("change", [clamp, clamp_data], ids=["in place", ".data"])
@pytest.mark.usefixtures("trusted", "slow_copies")
def test_a_snapshot_of_two_moments_is_never_kept(change: Change, tmp_path: Path, capsys: Said) -> None:
    were = train(tmp_path, OPTIMIZERS["adamw"], change=change)
    said = capsys.readouterr().err
    assert "step 1 of main could not be saved: Parameters were changed outside" in said
    found = saved(tmp_path, OPTIMIZERS["adamw"])
    assert found
    assert all(found[step] == were[step - 1] for step in found)


def test_the_debug_mode_compares_every_save(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: Said
) -> None:
    monkeypatch.setenv("HOLDFAST_FENCE", "check")
    late = iter([False] * 3 + [True] * 9)
    were = train(tmp_path, OPTIMIZERS["adamw"], change=lambda m: clamp_data(m) if next(late) else None)
    assert "parameters change outside" in capsys.readouterr().err
    assert saved(tmp_path, OPTIMIZERS["adamw"]) == dict(enumerate(were, start=1))


def test_an_unknown_mode_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOLDFAST_FENCE", "maybe")
    with pytest.raises(holdfast.UsageError, match="HOLDFAST_FENCE=maybe is unknown"):
        train(tmp_path, OPTIMIZERS["adamw"])


@pytest.mark.usefixtures("trusted")
def test_what_is_fenced() -> None:
    from holdfast.frameworks.torch import FRAMEWORK

    model = Net()
    optimizer = OPTIMIZERS["adamw"](model.parameters())
    model(torch.randint(0, 300, (8,))).sum().backward()
    optimizer.step()
    owned = FRAMEWORK.changed_by_steps_only([model, optimizer])
    weight = model.body[0].weight
    average, renormed = optimizer.state[weight]["exp_avg"], model.embed.weight
    assert (weight.data_ptr(), weight.nbytes) in owned
    assert (average.data_ptr(), average.nbytes) in owned
    assert (renormed.data_ptr(), renormed.nbytes) not in owned, "a forward pass renorms it"
    assert FRAMEWORK.changed_by_steps_only([model]) == {}

    class Own(torch.optim.AdamW):
        pass

    assert FRAMEWORK.changed_by_steps_only([model, Own(model.parameters())]) == {}


@pytest.mark.usefixtures("trusted", "slow_copies")
def test_two_optimizers_and_an_average_of_the_weights(tmp_path: Path) -> None:
    torch.manual_seed(0)
    model = Net()
    average = torch.optim.swa_utils.AveragedModel(model)
    first = torch.optim.AdamW(model.body[0].parameters(), lr=1e-2)
    second = torch.optim.SGD(model.body[2].parameters(), lr=1e-2, momentum=0.9)
    state: dict[str, Any] = {"model": model, "optimizer": first, "second": second, "average": average}

    def all_bits() -> dict[str, bytes]:
        ema = {f"a.{n}": t.detach().numpy().tobytes() for n, t in average.state_dict().items()}
        return bits(state) | ema

    were = []
    with holdfast.Checkpointer(tmp_path, state, save="every 1 step", keep="all") as ckpt:
        for t in ckpt.steps(6):
            model(torch.randint(0, 300, (8,))).square().mean().backward()
            (first if t % 2 else second).step()
            first.zero_grad(), second.zero_grad()
            average.update_parameters(model)
            were.append(all_bits())
    for checkpoint in run_of(tmp_path).checkpoints():
        holdfast.load(tmp_path, state, at=checkpoint.step)
        assert all_bits() == were[checkpoint.step - 1]


@pytest.mark.paddle
@pytest.mark.usefixtures("trusted", "slow_copies")
@pytest.mark.parametrize("way", ["step", "minimize"])
def test_paddle(way: str, tmp_path: Path) -> None:
    import paddle

    paddle.seed(0)
    model = paddle.nn.Sequential(
        paddle.nn.Linear(WIDTH, WIDTH), paddle.nn.LayerNorm(WIDTH), paddle.nn.Linear(WIDTH, 1)
    )
    optimizer = paddle.optimizer.AdamW(1e-2, parameters=model.parameters())
    state: dict[str, Any] = {"model": model, "optimizer": optimizer}

    def all_bits() -> dict[str, bytes]:
        values = {n: t.numpy().tobytes() for n, t in model.state_dict().items()}
        found = {n: t for n, t in optimizer.state_dict().items() if isinstance(t, paddle.Tensor)}
        return values | {n: t.numpy().tobytes() for n, t in found.items()}

    were = []
    with holdfast.Checkpointer(tmp_path, state, save="every 1 step", keep="all") as ckpt:
        for _ in ckpt.steps(6):
            loss = model(paddle.randn([8, WIDTH])).square().mean()
            if way == "minimize":
                loss.backward()
                optimizer.minimize(loss)
            else:
                loss.backward()
                optimizer.step()
            optimizer.clear_grad()
            were.append(all_bits())
        from holdfast.frameworks.paddle import FRAMEWORK

        assert len(FRAMEWORK.changed_by_steps_only([model, optimizer])) >= 3
    for checkpoint in run_of(tmp_path).checkpoints():
        holdfast.load(tmp_path, state, at=checkpoint.step)
        assert all_bits() == were[checkpoint.step - 1]
