from __future__ import annotations

import json
import random
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file
from torch import nn

import holdfast
from holdfast.cli import app
from holdfast.domain import tree
from holdfast.formats.series import import_folder
from holdfast.repository.repository import Repository
from holdfast.repository.verify import Verifier
from mortal_storage import Killed, Mortal

FOREIGN = Path(__file__).parent / "foreign"
torch.set_num_threads(1)


@pytest.fixture
def place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("HOLDFAST_REPOSITORY", str(tmp_path / "checkpoints"))
    return tmp_path / "checkpoints"


@pytest.fixture
def trainer(tmp_path: Path) -> Path:
    return Path(shutil.copytree(FOREIGN / "trainer", tmp_path / "trainer"))


def said(capsys: pytest.CaptureFixture[str], *arguments: str, code: int = 0) -> Any:
    assert app.run([*arguments, "--json"]) == code
    return json.loads(capsys.readouterr().out)


def steps(place: Path, run: str = "digits") -> list[tuple[int, str]]:
    return [(c.step, c.kind) for c in holdfast.open(place)[run]]


# -- Hugging Face's Trainer ------------------------------------------------------------------


def test_a_folder_of_checkpoints_becomes_one_run(
    place: Path, trainer: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    told = said(capsys, "import", str(trainer), "digits")
    assert [(c["source"], c["step"], c["kind"]) for c in told["checkpoints"]] == [
        ("checkpoint-2", 2, "full"),
        ("checkpoint-4", 4, "full"),
        ("checkpoint-6", 6, "full"),
    ]
    assert told["checkpoints"][0]["entries"] == ["model", "optimizer", "scheduler", "config"]
    assert told["checkpoints"][0]["left_out"] == ["training_args.bin"]
    run = holdfast.open(place)["digits"]
    ids = [c.id for c in run]
    assert [c.summary.parent for c in run] == [None, *ids[:2]]
    assert run.latest.step == 6
    logged = json.loads((trainer / "checkpoint-4/trainer_state.json").read_text())["log_history"]
    (evaluated,) = [e for e in logged if e["step"] == 4 and "eval_loss" in e]
    assert run[4].metrics["eval_loss"] == evaluated["eval_loss"]
    assert {"loss", "learning_rate"} <= run[4].metrics.keys()
    assert "step" not in run[4].metrics


def test_what_is_imported_says_from_where(
    place: Path, trainer: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    said(capsys, "import", str(trainer), "digits")
    training = tree.decode(holdfast.open(place)["digits"][4].manifest().details.training)
    assert training["imported"]["kind"] == "huggingface"
    assert training["imported"]["from"] == "checkpoint-4"
    assert training["imported"]["folder"] == str(trainer)
    size_bytes = (trainer / "checkpoint-4/model.safetensors").stat().st_size
    assert training["imported"]["files"]["model.safetensors"] == size_bytes


def test_weights_optimizer_scheduler_and_generators_are_bit_for_bit_those_saved(
    place: Path, trainer: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    said(capsys, "import", str(trainer), "digits")
    folder = trainer / "checkpoint-4"
    held = holdfast.open(place)["digits"][4].load()
    weights = load_file(folder / "model.safetensors")
    assert held["model"].keys() == weights.keys()
    assert all(torch.equal(held["model"][name], tensor) for name, tensor in weights.items())
    saved = torch.load(folder / "optimizer.pt", weights_only=True)
    assert held["optimizer"]["param_groups"] == saved["param_groups"]
    for number, values in saved["state"].items():
        assert all(torch.equal(held["optimizer"]["state"][number][k], v) for k, v in values.items())
    assert held["scheduler"] == torch.load(folder / "scheduler.pt", weights_only=True)
    training = tree.decode(holdfast.open(place)["digits"][4].manifest().details.training)
    assert training["rng"].keys() == {"python", "numpy", "torch"}


def test_generators_go_on_where_those_of_the_trainer_were(
    place: Path, trainer: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    said(capsys, "import", str(trainer), "digits", "--only", "model", "--only", "optimizer")
    saved = torch.load(trainer / "checkpoint-6/rng_state.pth", weights_only=False)  # made by ourselves
    torch.manual_seed(99)
    holdfast.load(place, {"model": {}, "optimizer": {}}, run="digits", at=6)
    assert torch.equal(torch.get_rng_state(), saved["cpu"])
    assert random.getstate() == saved["python"]
    assert np.array_equal(np.random.get_state()[1], saved["numpy"][1])
    assert np.random.get_state()[2:] == saved["numpy"][2:]


def test_importing_again_adds_only_what_is_new(
    place: Path, trainer: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    shutil.move(trainer / "checkpoint-6", tmp_path / "later")
    assert len(said(capsys, "import", str(trainer), "digits")["checkpoints"]) == 2
    again = said(capsys, "import", str(trainer), "digits")
    assert (again["checkpoints"], again["known"]) == ([], ["checkpoint-2", "checkpoint-4"])
    shutil.move(tmp_path / "later", trainer / "checkpoint-6")
    more = said(capsys, "import", str(trainer), "digits")
    assert [c["step"] for c in more["checkpoints"]] == [6]
    run = holdfast.open(place)["digits"]
    assert [c.step for c in run] == [2, 4, 6]
    assert run[6].summary.parent == run[4].id
    assert run.latest.step == 6


def test_a_source_that_has_changed_is_not_taken_for_the_old_one(
    place: Path, trainer: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    said(capsys, "import", str(trainer), "digits")
    with (trainer / "checkpoint-4/optimizer.pt").open("ab") as file:
        file.write(b"more")
    told = said(capsys, "import", str(trainer), "digits", code=2)
    assert "has changed since it was imported" in told["failed"]["checkpoint-4"]
    assert steps(place) == [(2, "full"), (4, "full"), (6, "full")]


@pytest.mark.parametrize("name", ["model.safetensors", "optimizer.pt", "trainer_state.json", "rng_state.pth"])
def test_one_bad_file_is_named_and_the_rest_imported(
    place: Path, trainer: Path, capsys: pytest.CaptureFixture[str], name: str
) -> None:
    bad = trainer / "checkpoint-4" / name
    bad.write_bytes(bad.read_bytes()[:100])
    assert app.run(["import", str(trainer), "digits"]) == 4
    out, err = capsys.readouterr()
    assert "checkpoint-4 was not imported: " in err
    assert name in err
    assert "Imported checkpoint-6 as digits@6" in out
    assert steps(place) == [(2, "full"), (6, "full")]


def test_a_model_alone_among_others_is_thin_and_nothing_resumes_from_it(
    place: Path, trainer: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (trainer / "checkpoint-6/optimizer.pt").unlink()
    said(capsys, "import", str(trainer), "digits")
    assert steps(place) == [(2, "full"), (4, "full"), (6, "thin")]
    assert holdfast.open(place)["digits"].latest.step == 4


def test_where_all_hold_a_model_only_they_are_what_there_is(
    place: Path, trainer: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    said(capsys, "import", str(trainer), "digits", "--only", "model")
    assert steps(place) == [(2, "full"), (4, "full"), (6, "full")]


def test_a_trained_run_is_never_added_to(
    place: Path, trainer: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    holdfast.save(place, {"x": 1}, step=1, run="digits")
    assert app.run(["import", str(trainer), "digits"]) == 2
    assert "exists already" in capsys.readouterr().err
    assert steps(place) == [(1, "full")]


def test_one_checkpoint_of_the_folder_can_be_imported_alone(
    place: Path, trainer: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    told = said(capsys, "import", str(trainer / "checkpoint-4"), "one")
    assert (told["step"], told["entries"]) == (4, ["model", "optimizer", "scheduler", "config"])


def test_weights_that_are_pickled_are_read_alike(
    place: Path, trainer: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    weights = load_file(trainer / "checkpoint-4/model.safetensors")
    (trainer / "checkpoint-4/model.safetensors").unlink()
    torch.save(weights, trainer / "checkpoint-4/pytorch_model.bin")
    said(capsys, "import", str(trainer), "digits")
    held = holdfast.open(place)["digits"][4].load(only="model")["model"]
    assert all(torch.equal(held[name], tensor) for name, tensor in weights.items())


# -- Lightning -------------------------------------------------------------------------------


def test_lightning_files_become_a_run(place: Path, capsys: pytest.CaptureFixture[str]) -> None:
    told = said(capsys, "import", str(FOREIGN / "lightning"), "net", code=2)
    assert [(c["source"], c["step"]) for c in told["checkpoints"]] == [
        ("epoch=0-step=4.ckpt", 4),
        ("epoch=1-step=8.ckpt", 8),
        ("epoch=2-step=12.ckpt", 12),
    ]
    assert "the run has step 12 already" in told["failed"]["last.ckpt"]
    assert told["checkpoints"][0]["entries"] == ["model", "optimizer", "scheduler", "lightning"]
    run = holdfast.open(place)["net"]
    saved = torch.load(FOREIGN / "lightning/epoch=1-step=8.ckpt", weights_only=True)
    (keeper,) = saved["callbacks"].values()
    assert run[8].metrics == {"loss": keeper["current_score"].item()}
    assert run[8].summary.progress.epoch == saved["epoch"]
    layer = nn.Module()
    layer.layer = nn.Linear(3, 2)
    optimizer = torch.optim.AdamW(layer.parameters(), lr=0.1)
    scheduler = torch.optim.lr_scheduler.StepLR(optimizer, 1)
    state = {"model": layer, "optimizer": optimizer, "scheduler": scheduler}
    run[8].load(into=state, only=list(state))
    assert torch.equal(layer.layer.weight, saved["state_dict"]["layer.weight"])
    moments = saved["optimizer_states"][0]["state"]
    assert torch.equal(optimizer.state_dict()["state"][0]["exp_avg"], moments[0]["exp_avg"])
    assert scheduler.last_epoch == saved["lr_schedulers"][0]["last_epoch"]


# -- plain files, Paddle's, DCP --------------------------------------------------------------


def test_steps_come_from_names_or_contents_and_are_never_guessed(
    place: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = tmp_path / "files"
    folder.mkdir()
    torch.save({"w": torch.ones(2)}, folder / "model_300.pt")
    torch.save({"model": {"w": torch.ones(2)}, "global_step": 20}, folder / "a.pt")
    torch.save({"w": torch.ones(2)}, folder / "run2-step100.pt")
    torch.save({"w": torch.ones(2)}, folder / "v2-of-3.pt")
    torch.save({"model": {"w": torch.ones(2)}, "step": 5}, folder / "step-6.pt")
    (folder / "notes.txt").write_text("no checkpoint")
    told = said(capsys, "import", str(folder), "digits", code=4)
    assert [(c["source"], c["step"]) for c in told["checkpoints"]] == [
        ("a.pt", 20),
        ("run2-step100.pt", 100),
        ("model_300.pt", 300),
    ]
    assert "Nothing tells the step of v2-of-3.pt" in told["failed"]["v2-of-3.pt"]
    assert "of step 6 by its name and of step 5 by its contents" in told["failed"]["step-6.pt"]


def test_a_kill_between_two_checkpoints_leaves_an_import_that_can_be_gone_on_with(
    place: Path, trainer: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    from holdfast.formats import series

    real = series.committed

    def dying(run: Any, draft: Any, *rest: Any) -> Any:
        if draft.progress.step == 4:
            raise KeyboardInterrupt
        return real(run, draft, *rest)

    monkeypatch.setattr(series, "committed", dying)
    assert app.run(["import", str(trainer), "digits"]) == 130
    assert steps(place) == [(2, "full")]
    monkeypatch.undo()
    monkeypatch.setenv("HOLDFAST_REPOSITORY", str(place))
    told = said(capsys, "import", str(trainer), "digits")
    assert [c["step"] for c in told["checkpoints"]] == [4, 6]
    assert holdfast.open(place)["digits"].latest.step == 6


def test_killed_before_any_change_of_the_storage_it_is_gone_on_with(tmp_path: Path) -> None:
    folder = tmp_path / "files"
    folder.mkdir()
    for step in (1, 2, 3):
        torch.save({"w": torch.full((2,), step)}, folder / f"step-{step}.pt")
    killed = True
    changes = 0
    while killed:
        storage = Mortal()
        repository = Repository.create(storage, chunk_bytes=4096)
        storage.left, killed = changes, False
        try:
            import_folder(repository, "run", folder)
        except Killed:
            killed = True
        storage.left = 10**9
        again = Repository.open(storage)
        assert import_folder(again, "run", folder).failed == {}
        run = again.run("run")
        assert [c.step for c in reversed(run.lineage())] == [1, 2, 3]
        assert len(run.checkpoints()) == 3
        assert Verifier(again).check(run, run.resolve(3)).ok
        changes += 1
    assert changes > 10


@pytest.mark.parametrize("step", [["--step", "3"], []])
def test_bad_input_is_one_sentence(
    place: Path, tmp_path: Path, trainer: Path, capsys: pytest.CaptureFixture[str], step: list[str]
) -> None:
    (tmp_path / "empty").mkdir()
    empty = tmp_path / "empty"
    source, code, why = (trainer, 2, "steps of their own") if step else (empty, 3, "holds no checkpoint")
    assert app.run(["import", str(source), "digits", *step]) == code
    assert why in capsys.readouterr().err


def test_what_would_run_code_is_refused_and_never_run(
    place: Path, trainer: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    class Evil:
        def __reduce__(self) -> Any:
            return (Path.touch, (tmp_path / "ran",))

    torch.save({"state": {}, "evil": Evil()}, trainer / "checkpoint-4/optimizer.pt")
    told = said(capsys, "import", str(trainer), "digits", code=8)
    assert "only running code could build" in told["failed"]["checkpoint-4"]
    assert not (tmp_path / "ran").exists()
    assert steps(place) == [(2, "full"), (6, "full")]
