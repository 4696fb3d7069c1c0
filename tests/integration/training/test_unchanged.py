"""Frozen tensors in real trainings: not copied, and not missing, whoever dies and whatever is written to."""

from __future__ import annotations

import os
import signal
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from tests.integration.training.launching import ended, run_of, send_self, steps_in, wait_until
from torch import nn

import holdfast
from agents import agent_of, agents_below
from holdfast.domain.names import CheckpointId
from holdfast.errors import StorageError
from holdfast.node.written import Watch
from holdfast.repository import compact, index, layout, records
from holdfast.repository.repository import Repository
from holdfast.repository.run import Run
from holdfast.storage.local import LocalStorage
from holdfast.training.unwritten import Unchanged, Unwritten

Said = pytest.CaptureFixture[str]
Each = Callable[[holdfast.Checkpointer, int, nn.Module], None]
pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="asked of Linux")
WIDTH, DEPTH = 640, 3  # 1.6 MB each
BASE = {f"model/base.{n}.weight" for n in range(DEPTH)}


@pytest.fixture(autouse=True)
def no_agent_stays(tmp_path: Path) -> Iterator[None]:
    watch = Watch.open()
    if watch is None:
        pytest.skip("this kernel is older than 6.7, or forbids userfaultfd")
    watch.close()
    yield
    for agent in agents_below(tmp_path):
        os.kill(agent, signal.SIGKILL)


@pytest.fixture
def noted(monkeypatch: pytest.MonkeyPatch) -> list[Unchanged]:
    """What each save left out."""
    seen: list[Unchanged] = []
    among = Unwritten.among

    def note(unwritten: Unwritten, *arguments: Any) -> Unchanged:
        seen.append(among(unwritten, *arguments))
        return seen[-1]

    monkeypatch.setattr(Unwritten, "among", note)
    return seen


def made() -> nn.ModuleDict:
    torch.manual_seed(3)
    base = nn.Sequential(*(nn.Linear(WIDTH, WIDTH) for _ in range(DEPTH)))
    model = nn.ModuleDict({"base": base, "adapter": nn.Linear(WIDTH, 4)})
    base.requires_grad_(False)
    return model


def train(
    repository: Path, *, until: int = 8, each: Each | None = None, save: str = "every 1 step", **options: Any
) -> nn.ModuleDict:
    """Adapters beside a frozen base; each save is waited for, so that the next may rely on it."""
    model = made()
    optimizer = torch.optim.AdamW(model["adapter"].parameters())
    state = {"model": model, "optimizer": optimizer}
    with holdfast.Checkpointer(repository, state, save=save, keep="last 3", **options) as ckpt:
        for t in ckpt.steps(until):
            ckpt._entered._saver.wait()
            if each is not None:
                each(ckpt, t, model)
            loss = model["adapter"](model["base"](torch.randn(2, WIDTH))).square().mean()
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            ckpt.step(loss=loss.item())
    return model


def assert_holds(repository: Path, expected: nn.Module, step: int) -> None:
    model = made()
    assert holdfast.load(repository, {"model": model}, only="model").step == step
    live = expected.state_dict()
    assert all(torch.equal(tensor, live[name]) for name, tensor in model.state_dict().items())


def thaw(at: int) -> Each:
    """Write one element of the base before this turn, past every version counter."""

    def each(ckpt: holdfast.Checkpointer, t: int, model: nn.Module) -> None:
        if t == at:
            model.state_dict()["base.1.weight"].data.view(-1)[54_321] = 17.0

    return each


@pytest.mark.parametrize("background", [False, True])
def test_the_base_is_copied_once_and_every_checkpoint_has_it(
    background: bool, noted: list[Unchanged], tmp_path: Path
) -> None:
    end = train(tmp_path, background=background)
    assert noted[0] == Unchanged()
    assert all(unchanged.left_out == BASE for unchanged in noted[2:])
    assert_holds(tmp_path, end, 8)
    assert steps_in(tmp_path) == [6, 7, 8]
    holdfast.open(tmp_path)["main"].latest.verify()


def test_packs_that_are_rewritten_meanwhile_cost_no_save(noted: list[Unchanged], tmp_path: Path) -> None:
    def condemn(ckpt: holdfast.Checkpointer, t: int, model: nn.Module) -> None:
        del ckpt, model
        storage = LocalStorage(tmp_path)
        for pack_id in index.present_packs(storage) if t >= 4 else ():
            record = records.encode(records.CondemnedRecord(pack_id, storage.now_seconds()))
            storage.put_if_absent(layout.condemned_pack(pack_id), record)

    end = train(tmp_path, background=True, each=condemn)
    assert all(unchanged.left_out == BASE for unchanged in noted[2:])
    assert_holds(tmp_path, end, 8)
    assert steps_in(tmp_path) == [6, 7, 8]


@pytest.mark.parametrize("background", [False, True])
def test_one_element_written_is_saved(background: bool, noted: list[Unchanged], tmp_path: Path) -> None:
    end = train(tmp_path, background=background, each=thaw(5))
    assert end.state_dict()["base.1.weight"].view(-1)[54_321] == 17.0
    assert noted[4].left_out == BASE
    assert noted[5].left_out == BASE - {"model/base.1.weight"}
    assert_holds(tmp_path, end, 8)


@pytest.mark.parametrize(
    "save", ["every 1 step", "memory every 1 step, disk every 4 steps"], ids=["disk", "memory"]
)
def test_a_killed_trainer_comes_back_to_the_same_end(save: str, tmp_path: Path, capsys: Said) -> None:
    def count(*, dies: bool) -> dict[str, Any]:
        state = {"base": np.full(500_000, 2.0), "weights": np.zeros(500_000), "seen": 0}
        with holdfast.Checkpointer(tmp_path, state, save=save, background=True) as ckpt:
            for t in ckpt.steps(12):
                ckpt._entered._saver.wait()
                if t == 5:
                    state["base"][54_321] = 17.0
                if dies and t == 7:
                    agent_of(ckpt)
                    send_self(signal.SIGKILL)
                state["weights"] += state["base"] * t
                state["seen"] += 1
                ckpt.step(loss=1.0)
        return state

    code, said = ended(lambda tell: count(dies=True) and None)
    assert code == -signal.SIGKILL, said
    state = count(dies=False)
    assert "resumes after step 7" in capsys.readouterr().err
    expected = np.full(500_000, 2.0) * sum(range(12))
    expected[54_321] = 2.0 * sum(range(5)) + 17.0 * sum(range(5, 12))
    assert state["seen"] == 12
    assert (state["weights"] == expected).all()
    back: dict[str, Any] = {"base": np.zeros(500_000), "weights": np.zeros(500_000), "seen": 0}
    holdfast.load(tmp_path, back)
    assert (back["base"] == state["base"]).all()
    assert (back["weights"] == expected).all()


def test_an_agent_that_dies_is_followed_by_one_that_knows_the_base(
    noted: list[Unchanged], tmp_path: Path
) -> None:
    def each(ckpt: holdfast.Checkpointer, t: int, model: nn.Module) -> None:
        if t in (3, 6):
            os.kill(agent_of(ckpt), signal.SIGKILL)

    end = train(tmp_path, each=each, background=True)
    assert all(unchanged.left_out == BASE for unchanged in noted[2:])
    assert_holds(tmp_path, end, 8)


@pytest.mark.parametrize("earlier", [None, 5], ids=["the storage does not answer", "one was removed"])
def test_the_base_is_not_taken_from_before_it_was_so(
    earlier: int | None, noted: list[Unchanged], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What another agent finds to go on from need not be what the trainer knows to be durable."""
    monkeypatch.setattr("holdfast.training.saving.FIRST_PAUSE_SECONDS", 0.0)
    train(tmp_path, until=3, background=True)
    all_there, dies = Run.checkpoints, 5 if earlier is None else 8

    def unlike(run: Run) -> list[CheckpointId]:
        if earlier is None:
            raise StorageError("it does not answer")
        return [c for c in all_there(run) if c.step <= earlier]

    def each(ckpt: holdfast.Checkpointer, t: int, model: nn.Module) -> None:
        if t == (3 if earlier is None else 5):
            model["base"][1].weight.data = torch.zeros(WIDTH, WIDTH)
        if t == dies:
            agent = agent_of(ckpt)
            os.kill(agent, signal.SIGKILL)
            with monkeypatch.context() as patched:
                patched.setattr(Run, "checkpoints", unlike)
                way: Any = ckpt._entered._saver._way
                assert wait_until(lambda: way._hear_all(0.0) or agent_of(ckpt) != agent)

    end = train(tmp_path, until=11, each=each, background=True)
    assert noted[dies].left_out == BASE
    for checkpoint in run_of(tmp_path).checkpoints():
        model = made()
        holdfast.load(tmp_path, {"model": model}, only="model", at=checkpoint.step)
        assert torch.equal(model["base"][1].weight, end["base"][1].weight)


def test_a_compaction_beside_it_is_followed(noted: list[Unchanged], tmp_path: Path) -> None:
    def each(ckpt: holdfast.Checkpointer, t: int, model: nn.Module) -> None:
        if t == 4:
            done = compact.apply(compact.plan(Repository.open(LocalStorage(tmp_path))), wait_seconds=0)
            assert done.packs_written

    end = train(tmp_path, each=each, background=True)
    assert all(unchanged.left_out == BASE for unchanged in noted[2:])
    assert_holds(tmp_path, end, 8)


def test_packs_that_vanish_cost_a_save_and_the_next_is_whole(
    noted: list[Unchanged], tmp_path: Path, capsys: Said, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("holdfast.training.saving.FIRST_PAUSE_SECONDS", 0.0)

    def each(ckpt: holdfast.Checkpointer, t: int, model: nn.Module) -> None:
        if t == 4:
            for pack in tmp_path.glob("packs/*/*"):
                pack.unlink()

    end = train(tmp_path, each=each, background=True)
    assert "step 5 of main could not be saved" in (said := capsys.readouterr().err), said
    assert noted[4].left_out == BASE
    assert noted[5] == Unchanged()
    assert noted[7].left_out == BASE
    assert_holds(tmp_path, end, 8)


def test_what_is_unfrozen_is_saved_as_it_is_trained(noted: list[Unchanged], tmp_path: Path) -> None:
    def each(ckpt: holdfast.Checkpointer, t: int, model: nn.Module) -> None:
        if t >= 5:
            with torch.no_grad():
                model.state_dict()["base.0.weight"] += 0.01

    end = train(tmp_path, each=each)
    assert all(unchanged.left_out == BASE - {"model/base.0.weight"} for unchanged in noted[5:])
    assert_holds(tmp_path, end, 8)


def test_where_the_kernel_does_not_tell_all_is_copied(
    noted: list[Unchanged], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Watch, "open", lambda: None)
    end = train(tmp_path, background=True)
    assert set(noted) == {Unchanged()}
    assert_holds(tmp_path, end, 8)


def test_in_check_mode_it_is_compared_at_each_save(
    noted: list[Unchanged], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: Said
) -> None:
    monkeypatch.setenv("HOLDFAST_FENCE", "check")
    end = train(tmp_path, background=True)
    assert all(not u.left_out and u.compared == BASE for u in noted[2:])
    assert_holds(tmp_path, end, 8)
    monkeypatch.setattr(Watch, "is_written", lambda *_: False)  # a kernel that misses a write
    train(tmp_path, until=12, background=True, each=thaw(10))
    assert "model/base.1.weight changed though the kernel saw no write" in capsys.readouterr().err


@pytest.mark.paddle
def test_paddle_s_frozen_layers_are_left_out_too(noted: list[Unchanged], tmp_path: Path) -> None:
    import paddle

    base = paddle.nn.Linear(WIDTH, WIDTH)
    for parameter in base.parameters():
        parameter.stop_gradient = True
    head = paddle.nn.Linear(WIDTH, 4)
    optimizer = paddle.optimizer.AdamW(parameters=head.parameters())
    state = {"base": base, "head": head, "optimizer": optimizer}
    with holdfast.Checkpointer(tmp_path, state, save="every 1 step") as ckpt:
        for t in ckpt.steps(6):
            ckpt._entered._saver.wait()
            if t == 4:
                base.weight[7, 7] = 5.0
            loss = head(base(paddle.randn([2, WIDTH]))).square().mean()
            loss.backward()
            optimizer.step()
            optimizer.clear_grad()
            ckpt.step(loss=float(loss))
    assert [sorted(unchanged.left_out) for unchanged in noted[2:4]] == [["base/weight"]] * 2
    expected = base.weight.numpy().copy()
    assert expected[7, 7] == 5.0
    base.weight.zero_()
    holdfast.load(tmp_path, state)
    assert (base.weight.numpy() == expected).all()
    assert wait_until(lambda: not agents_below(tmp_path))
    assert run_of(tmp_path).latest() is not None
