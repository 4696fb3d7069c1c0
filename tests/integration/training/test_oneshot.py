"""`save`, `load` and `open` by hand, as the documentation shows them."""

from __future__ import annotations

import os
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from tests.integration.training.launching import Tell, at, count, launch, run_of, steps_in

import holdfast

torch.set_num_threads(1)


def parts(fill: float = 0.0) -> dict[str, Any]:
    model = torch.nn.Linear(2, 2)
    torch.nn.init.constant_(model.weight, fill)
    return {"model": model, "optimizer": torch.optim.SGD(model.parameters(), lr=0.1), "best": fill}


def test_save_and_load_by_hand(tmp_path: Path) -> None:
    place = tmp_path / "checkpoints"
    for step in (100, 200):
        saved = holdfast.save(place, parts(step), step=step, metrics={"val_loss": 1 / step})
        assert (saved.step, saved.run, saved.kind) == (step, "main", "full")
    state = parts(-1.0)
    model = state["model"]
    loaded = holdfast.load(place, into=state)
    assert loaded.step == 200
    assert state["model"] is model
    assert model.weight[0, 0] == 200
    assert state["best"] == 200
    assert holdfast.load(place, into=state, run="main", at=100, only=None, strict=True).step == 100
    assert model.weight[0, 0] == 100
    assert holdfast.load(place, into=state, at="latest", only="model").step == 200
    assert (model.weight[0, 0], state["best"]) == (200, 100)


def test_generators_are_part_of_it(tmp_path: Path) -> None:
    torch.manual_seed(5)
    np.random.seed(5)
    holdfast.save(tmp_path, {"a": 1}, step=1)
    drawn = torch.rand(3).tolist(), np.random.rand()
    holdfast.load(tmp_path, {"a": 0})
    assert (torch.rand(3).tolist(), np.random.rand()) == drawn


def test_what_was_loaded_is_where_the_next_save_descends_from(tmp_path: Path) -> None:
    for step in (1, 2, 3):
        holdfast.save(tmp_path, {"a": step}, step=step, tag="first" if step == 1 else None)
    holdfast.load(tmp_path, {"a": 0}, at="first")

    def elsewhere(tell: Tell) -> None:
        holdfast.load(tmp_path, {"a": 0}, at="first")
        saved = holdfast.save(tmp_path, {"a": 9}, step=9)
        tell(str(saved.summary.parent))

    process = launch(elsewhere)
    parent = process.heard()
    assert process.wait() == 0, process.said
    repo = holdfast.open(tmp_path)
    assert parent == repo["main"]["first"].id
    assert [c.step for c in repo["main"]] == [1, 2, 3, 9]
    assert repo["main"].latest.step == 9
    assert repo["main"]._run.lineage()[1].step == 1  # 2 and 3 are a dead branch now


def test_a_checkpointer_goes_on_from_a_save_by_hand_and_the_reverse(tmp_path: Path) -> None:
    holdfast.save(tmp_path, {"weights": np.ones(100), "log": ["by hand"]}, step=2)
    state = count(tmp_path, until=4)
    assert state["log"] == ["by hand", 2, 3]
    assert holdfast.load(tmp_path, state).step == 4


def test_a_save_by_hand_into_a_run_in_training_is_refused(tmp_path: Path) -> None:
    def by_hand(ckpt: holdfast.Checkpointer) -> None:
        with pytest.raises(holdfast.BusyError, match="A Checkpointer of this process"):
            holdfast.save(tmp_path, {"a": 1}, step=9)
        holdfast.save(tmp_path, {"a": 1}, step=9, run="other")

    assert count(tmp_path, each=at(2, by_hand))["log"] == list(range(6))
    holdfast.save(tmp_path, {"a": 1}, step=9)


def test_a_forked_child_saves_as_a_writer_of_its_own(tmp_path: Path) -> None:
    holdfast.save(tmp_path, {"a": 1}, step=1)
    process = launch(lambda _: holdfast.save(tmp_path, {"a": 2}, step=2) and None)
    assert process.wait() == 0, process.said
    holdfast.save(tmp_path, {"a": 3}, step=3)
    attempts = [c.attempt for c in run_of(tmp_path).checkpoints()]
    assert len(set(attempts)) == 3


def test_what_goes_wrong_is_said_and_nothing_is_created(tmp_path: Path) -> None:
    with pytest.raises(holdfast.NotFoundError, match="no repository"):
        holdfast.open(tmp_path / "none")
    with pytest.raises(holdfast.NotFoundError, match="no repository"):
        holdfast.load(tmp_path / "none", {"a": 1})
    assert not (tmp_path / "none").exists()
    with pytest.raises(holdfast.UnsupportedError, match=r"a\.b"):
        holdfast.save(tmp_path / "some", {"a": {"b": object()}}, step=1)
    with pytest.raises(holdfast.UsageError, match="cannot be a tag"):
        holdfast.save(tmp_path / "some", {"a": 1}, step=1, tag="best")
    assert not (tmp_path / "some").exists() or not list((tmp_path / "some").rglob("*.manifest"))
    holdfast.save(tmp_path / "some", {"a": 1}, step=1)
    with pytest.raises(holdfast.NotFoundError, match="its steps are 1"):
        holdfast.load(tmp_path / "some", {"a": 1}, at=7)
    with pytest.raises(holdfast.NotFoundError):
        holdfast.load(tmp_path / "some", {"a": 1}, run="other")


@pytest.fixture(scope="module")
def repository(tmp_path_factory: pytest.TempPathFactory) -> Path:
    place = tmp_path_factory.mktemp("views")
    for run, losses in (("digits", (3.0, 1.0, 2.0)), ("sweep/lr1", (5.0, 0.5)), ("sweep/lr3", (9.0,))):
        state = {"model": torch.nn.Linear(2, 2), "n": 0}
        keep = holdfast.keep(last=9, best=1, monitor="val_loss")
        with holdfast.Checkpointer(
            place, state, run=run, config={"lr": 0.1}, save="every 1 step", keep=keep
        ) as ckpt:
            for t in ckpt.steps(len(losses)):
                state["n"] = t
                ckpt.step()
                ckpt.report(val_loss=losses[t])
    return place


def test_a_repository_looked_at(repository: Path, tmp_path: Path) -> None:
    repo = holdfast.open(repository)
    assert [run.name for run in repo.runs()] == ["digits", "sweep/lr1", "sweep/lr3"]
    assert [run.name for run in repo.runs("sweep/*")] == ["sweep/lr1", "sweep/lr3"]
    assert "digits" in repo
    assert "letters" not in repo
    assert repo["digits"].latest.step == 3
    assert repo["digits"][1].step == 1
    assert [c.step for c in repo["digits"]] == [1, 2, 3]
    assert (len(repo["digits"]), repr(repo["digits"])) == (3, "<Run digits: 3 checkpoints>")
    best = repo.best("val_loss", "min")
    assert (best.run, best.step, best.metrics["val_loss"]) == ("sweep/lr1", 2, 0.5)
    assert repo.best("val_loss", "max").run == "sweep/lr3"
    with pytest.raises(holdfast.NotFoundError, match="digits, sweep/lr1"):
        repo["letters"]
    with pytest.raises(holdfast.NotFoundError, match="accuracy"):
        repo.best("accuracy")


def test_a_checkpoint_looked_at(repository: Path, tmp_path: Path) -> None:
    c = holdfast.open(repository)["digits"]["best"]
    assert (c.step, c.metrics["val_loss"], c.config, c.kind) == (2, 1.0, {"lr": 0.1}, "full")
    assert repr(c) == "<Checkpoint digits@2 (full)>"
    assert c.summary.progress.step == 2
    loaded = c.load(only="model")
    assert set(loaded) == {"model"}
    assert torch.equal(loaded["model"]["weight"], c.load()["model"]["weight"])
    into = {"model": torch.nn.Linear(2, 2), "n": 7}
    c.load(into=into, only="model")
    assert into["n"] == 7
    assert torch.equal(into["model"].weight, loaded["model"]["weight"])
    c.verify()
    c.export(tmp_path / "best.safetensors")
    assert (tmp_path / "best.safetensors").stat().st_size > 0
    with pytest.raises(holdfast.HoldfastError):
        c.export(tmp_path / "best.safetensors")
    pack = next((repository / "packs").rglob("*.pack"))
    assert os.access(pack, os.R_OK)
    assert steps_in(repository, "digits") == [1, 2, 3]


def test_another_repository_at_the_same_place_is_another_repository(tmp_path: Path) -> None:
    for _ in range(2):
        saved = holdfast.save(tmp_path / "repository", {"x": 1}, step=1)
        assert saved.summary.parent is None
        shutil.rmtree(tmp_path / "repository")


def test_a_copied_repository_is_saved_to_by_itself(tmp_path: Path) -> None:
    holdfast.save(tmp_path / "one", {"x": 1}, step=1)
    shutil.copytree(tmp_path / "one", tmp_path / "two")
    holdfast.save(tmp_path / "two", {"x": 2}, step=2)
    assert [c.step for c in holdfast.open(tmp_path / "one")["main"]] == [1]
    assert [c.step for c in holdfast.open(tmp_path / "two")["main"]] == [1, 2]
