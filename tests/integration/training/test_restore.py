"""Restoring in real launches: walk-back, refusals that touch nothing, partial loads, poison, read errors."""

from __future__ import annotations

import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from tests.integration.training.launching import count, run_of, steps_in

import holdfast
from holdfast.domain.names import CheckpointId
from holdfast.errors import PoisonedError
from holdfast.repository import layout, records
from holdfast.repository.moving import MovingRecord, move
from holdfast.repository.repository import Repository
from holdfast.storage.local import LocalStorage

torch.set_num_threads(1)
Said = pytest.CaptureFixture[str]
SIZE = 3_000  # several blocks, and more than one element to hurt


def train(repository: Path, until: int = 4) -> dict[str, Any]:
    return count(repository, until=until, save="every 1 step", keep="all", size=SIZE)


@pytest.fixture(scope="module")
def template(tmp_path_factory: pytest.TempPathFactory) -> Path:
    repository = tmp_path_factory.mktemp("template") / "repository"
    train(repository)
    return repository


@pytest.fixture
def repository(template: Path, tmp_path: Path) -> Path:
    shutil.copytree(template, tmp_path / "repository")
    return tmp_path / "repository"


def newest(repository: Path, back: int = 0) -> CheckpointId:
    return list(run_of(repository).recovery_points())[back]


def manifest_file(repository: Path, checkpoint: CheckpointId) -> Path:
    return repository / run_of(repository).layout.checkpoint(checkpoint)


def pack_file(repository: Path, checkpoint: CheckpointId) -> Path:
    (pack,) = run_of(repository).hints(checkpoint)
    return repository / layout.pack(pack)


def flip(path: Path, where: float = 0.3) -> None:
    data = bytearray(path.read_bytes())
    data[int(len(data) * where)] ^= 4
    path.write_bytes(data)


def damage(repository: Path, checkpoint: CheckpointId, how: str) -> None:
    if how == "manifest":
        flip(manifest_file(repository, checkpoint))
    elif how == "pack":
        flip(pack_file(repository, checkpoint))
    else:
        pack_file(repository, checkpoint).unlink()


@pytest.mark.parametrize("how", ["manifest", "pack", "missing pack"])
def test_it_walks_back_past_damage_records_it_and_says_so(how: str, repository: Path, capsys: Said) -> None:
    whole = train(repository.parent / "whole", until=6)
    capsys.readouterr()
    for back in (0, 1):
        damage(repository, newest(repository, back), how)
    hurt = [newest(repository, back) for back in (0, 1)]
    resumed = train(repository, until=6)
    said = capsys.readouterr().err
    # What is missing may come back, so it is not quarantined.
    word, rejected = (
        ("left as it is", set()) if how == "missing pack" else ("quarantined", set(map(str, hurt)))
    )
    for checkpoint in hurt:
        assert f"WARNING: the checkpoint main@{checkpoint.step} cannot be used ({word})" in said
    assert "resumes after step 2" in said
    assert run_of(repository).rejected() == rejected
    assert resumed["log"] == whole["log"]
    assert resumed["weights"].tolist() == whole["weights"].tolist()
    assert steps_in(repository)[-1] == 6
    train(repository, until=7)  # and the next launch goes on from there
    assert "WARNING" not in capsys.readouterr().err


def test_all_damaged_is_one_clear_error_and_nothing_starts_afresh(repository: Path) -> None:
    for back in range(4):
        damage(repository, newest(repository, back), "pack")
    for _ in range(2):  # also when all have been rejected before
        state = {"weights": np.full(SIZE, 7.0), "log": ["mine"]}
        with pytest.raises(holdfast.DamagedError, match="No checkpoint of the run main") as caught:
            holdfast.Checkpointer(repository, state).__enter__()
        assert "holdfast repair" in str(caught.value)
        assert "holdfast restart main" in str(caught.value)
        assert state["log"] == ["mine"]
    assert len(steps_in(repository)) == 4
    run = run_of(repository)
    assert [a.based for a in run.attempts()] == [True, False, False]


def test_a_checkpoint_asked_for_by_name_is_not_replaced_by_another(repository: Path) -> None:
    damage(repository, newest(repository), "pack")
    with pytest.raises(holdfast.DamagedError, match="main@4"):
        holdfast.Checkpointer(repository, {"weights": np.zeros(SIZE), "log": []}, resume=4).__enter__()
    assert run_of(repository).rejected() == set()


def test_damage_of_an_old_checkpoint_stops_neither_resume_nor_retention(
    repository: Path, capsys: Said
) -> None:
    damage(repository, newest(repository, 2), "manifest")
    keep = holdfast.keep(last=1, best=1, monitor="loss")
    count(repository, until=7, save="every 1 step", keep=keep, size=SIZE)
    assert "WARNING" not in capsys.readouterr().err
    kept = steps_in(repository)
    assert kept[-1] == 7
    assert len(kept) <= 4  # the damaged one is left to 'repair'


# -- what does not fit ---------------------------------------------------------------------


def parts(width: int = 4, *, bias: bool = True, extra: bool = False) -> dict[str, Any]:
    torch.manual_seed(width)
    model = torch.nn.Sequential(torch.nn.Linear(3, width, bias=bias), torch.nn.Linear(width, 1))
    state = {"model": model, "optimizer": torch.optim.AdamW(model.parameters()), "n": 1}
    return state | ({"ema": torch.zeros(3)} if extra else {})


def learn(state: dict[str, Any]) -> None:
    state["model"](torch.ones(2, 3)).sum().backward()
    state["optimizer"].step()
    state["optimizer"].zero_grad()


@pytest.fixture(scope="module")
def torch_template(tmp_path_factory: pytest.TempPathFactory) -> Path:
    repository = tmp_path_factory.mktemp("torch") / "repository"
    state = parts()
    with holdfast.Checkpointer(repository, state, save="every 1 step", keep="all") as ckpt:
        for _ in ckpt.steps(3):
            learn(state)
    return repository


@pytest.fixture
def torch_repository(torch_template: Path, tmp_path: Path) -> Path:
    shutil.copytree(torch_template, tmp_path / "torch")
    return tmp_path / "torch"


def copied(state: dict[str, Any]) -> list[torch.Tensor]:
    return [p.detach().clone() for p in state["model"].parameters()]


def same(one: list[torch.Tensor], other: list[torch.Tensor]) -> bool:
    return all(torch.equal(a, b) for a, b in zip(one, other, strict=True))


def test_a_mismatch_lists_everything_and_touches_nothing(torch_repository: Path) -> None:
    state = parts(width=5, extra=True)
    state["model"].append(torch.nn.Linear(1, 1))
    del state["n"]
    before = copied(state)
    with pytest.raises(holdfast.MismatchError) as caught:
        holdfast.Checkpointer(torch_repository, state).__enter__()
    error = caught.value
    assert "ema" in error.missing
    assert any("2.weight" in path for path in error.missing)
    assert any(path.startswith("n") for path in error.unexpected)
    assert any("0.weight" in line for line in error.mismatched)
    for path in (*error.missing, *error.unexpected, *error.mismatched):
        assert path in str(error)
    assert same(before, copied(state))
    assert run_of(torch_repository).rejected() == set()


def test_not_strict_skips_what_does_not_fit_and_says_what(torch_repository: Path, capsys: Said) -> None:
    state = parts(extra=True)
    del state["n"]
    ema = state["ema"]
    loaded = holdfast.load(torch_repository, state, strict=False)
    assert loaded.step == 3
    assert state["ema"] is ema
    said = capsys.readouterr().err
    assert "missing from the checkpoint: ema" in said
    assert "not in the live state: n" in said
    trained = holdfast.open(torch_repository)["main"].latest.load()
    assert torch.equal(state["model"][0].weight, trained["model"]["0.weight"])


def test_only_the_model_leaves_the_rest_alone(torch_repository: Path) -> None:
    state = parts()
    state["n"] = 5
    random_state = torch.get_rng_state()
    holdfast.load(torch_repository, state, only="model")
    assert state["n"] == 5
    assert state["optimizer"].state_dict()["state"] == {}
    assert torch.equal(torch.get_rng_state(), random_state)
    with pytest.raises(holdfast.UnsupportedError, match="critic"):
        holdfast.load(torch_repository, state, only=["model", "critic"])


# -- half written --------------------------------------------------------------------------


@pytest.fixture
def half_written(torch_repository: Path) -> tuple[Path, dict[str, Any]]:
    """A state into which every checkpoint failed to load."""
    for back in range(3):
        flip(pack_file(torch_repository, newest(torch_repository, back)), where=0.05)
    state = parts()
    with pytest.raises(holdfast.DamagedError):
        holdfast.load(torch_repository, state)
    return torch_repository, state


def test_nothing_is_saved_from_a_half_written_state(half_written: Any, tmp_path: Path) -> None:
    _, state = half_written
    with pytest.raises(PoisonedError):
        holdfast.save(tmp_path / "other", state, step=1)
    with pytest.raises(PoisonedError):
        holdfast.Checkpointer(tmp_path / "other", {"nested": [state["model"]]}).__enter__()
    assert not run_of(tmp_path / "other").latest()


def test_a_full_restore_makes_a_half_written_state_whole(half_written: Any, tmp_path: Path) -> None:
    _, state = half_written
    good = parts()
    learn(good)
    holdfast.save(tmp_path / "good", good, step=1)
    holdfast.load(tmp_path / "good", state, only="model")
    with pytest.raises(PoisonedError):  # the optimizer is still neither old nor new
        holdfast.save(tmp_path / "other", state, step=1)
    holdfast.load(tmp_path / "good", state)
    holdfast.save(tmp_path / "other", state, step=1)


def test_a_load_that_fails_inside_a_training_stops_its_saves(torch_repository: Path, tmp_path: Path) -> None:
    damaged = holdfast.open(torch_repository)["main"].latest
    flip(pack_file(torch_repository, newest(torch_repository)), where=0.05)
    state = parts()

    def training() -> None:
        with holdfast.Checkpointer(tmp_path / "run", state, save="every 1 step") as ckpt:
            for t in ckpt.steps(4):
                learn(state)
                if t == 2:
                    with pytest.raises(holdfast.DamagedError):
                        damaged.load(into=state)

    with pytest.raises(PoisonedError):
        training()
    assert steps_in(tmp_path / "run") == [1, 2]


def test_walking_back_to_a_good_one_leaves_no_poison(torch_repository: Path) -> None:
    flip(pack_file(torch_repository, newest(torch_repository)), where=0.05)
    state = parts()
    with holdfast.Checkpointer(torch_repository, state, save="every 1 step") as ckpt:
        assert ckpt.progress.step == 2
        for _ in ckpt.steps(4):
            learn(state)
    assert steps_in(torch_repository)[-1] == 4


# -- read errors ---------------------------------------------------------------------------

SCRIPT = """
import sys, numpy as np, holdfast
state = {"weights": np.zeros(3000), "log": []}
try:
    with holdfast.Checkpointer(sys.argv[1], state) as ckpt:
        print("STEP", ckpt.progress.step)
except holdfast.HoldfastError as error:
    print(type(error).__name__, error)
"""


def with_read_errors(repository: Path, *paths: Path) -> str:
    only = [word for path in paths for word in ("-P", str(path))]
    inject = "inject=pread64,preadv,preadv2,read:error=EIO"
    command = ["strace", "-f", "-o", "/dev/null", *only, "-e", inject, sys.executable, "-c", SCRIPT]
    done = subprocess.run([*command, str(repository)], capture_output=True, text=True, check=True)
    return done.stdout + done.stderr


def test_a_read_error_steps_back_and_rejects_nothing(repository: Path) -> None:
    said = with_read_errors(repository, pack_file(repository, newest(repository)))
    assert "STEP 3" in said
    assert "main@4 cannot be used (left as it is)" in said
    assert run_of(repository).rejected() == set()


def test_when_nothing_can_be_read_that_is_no_damage(repository: Path) -> None:
    packs = [pack_file(repository, newest(repository, back)) for back in range(4)]
    said = with_read_errors(repository, *packs)
    assert "StorageError" in said
    assert "I/O error" in said
    assert "restart" not in said
    assert run_of(repository).rejected() == set()


def test_a_fresh_start_leaves_no_checkpoints_behind_that_lost_their_line(repository: Path) -> None:
    """As a sync that is killed right after it has brought the recovery point leaves them."""
    shutil.rmtree(repository / "runs/main/attempts")
    with pytest.raises(holdfast.DamagedError, match="no record of a launch leads to them") as caught:
        count(repository)
    assert "holdfast repair" in str(caught.value)


def test_a_fresh_start_where_something_was_to_be_resumed_says_so(repository: Path, capsys: Said) -> None:
    fork = run_of(repository, "fork")  # as one leaves it that is killed before its manifest
    fork.record_origin(fork.begin_attempt(), newest(repository))
    count(repository, run="fork")
    assert "step 4, from which fork was to go on, is not there" in capsys.readouterr().err
    count(repository, run="fresh")
    assert "is not there" not in capsys.readouterr().err


def test_a_fresh_start_takes_no_name_that_a_run_is_half_way_to(repository: Path) -> None:
    other = Repository.open(LocalStorage(repository)).run("other")
    other.storage.put(other.layout.moving, [records.encode(MovingRecord("main"))])
    with pytest.raises(holdfast.UsageError, match="The run main is half way to the name other") as caught:
        count(repository, run="other", size=SIZE)
    assert "holdfast mv main other" in str(caught.value)
    move(run_of(repository), other)
    count(repository, run="other", size=SIZE)
    head = other.head()
    assert head is not None
    assert head.base is not None
    assert head.base.step == 4
