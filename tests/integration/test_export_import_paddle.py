from __future__ import annotations

import os
import pickle
from pathlib import Path
from typing import Any

import numpy as np
import pytest

os.environ.setdefault("OMP_NUM_THREADS", "1")
paddle = pytest.importorskip("paddle")

from paddle import nn  # noqa: E402

import holdfast  # noqa: E402
from holdfast.domain.names import CheckpointId  # noqa: E402
from holdfast.errors import DamagedError, MismatchError, UnsupportedError, UsageError  # noqa: E402
from holdfast.formats.export import export_checkpoint  # noqa: E402
from holdfast.formats.importing import import_checkpoint  # noqa: E402
from holdfast.formats.reading import read_state  # noqa: E402
from holdfast.formats.series import import_folder  # noqa: E402
from holdfast.repository.repository import Repository  # noqa: E402
from holdfast.repository.run import Run  # noqa: E402
from holdfast.storage.urls import open_storage  # noqa: E402

pytestmark = [
    pytest.mark.paddle,
    pytest.mark.filterwarnings("ignore:There are some unused values:UserWarning"),
    pytest.mark.filterwarnings("ignore:When training, we now always track:UserWarning"),
]


class Net(nn.Layer):  # type: ignore[misc]
    def __init__(self, *, bf16: bool = False) -> None:
        super().__init__()
        self.embed = nn.Embedding(7, 4)
        self.norm = nn.BatchNorm1D(4)
        self.out = nn.Linear(4, 3)
        if bf16:
            self.out.to(dtype="bfloat16")

    def forward(self, x: Any) -> Any:
        return self.out(self.norm(self.embed(x)))


def trained(seed: int = 0, steps: int = 3, *, bf16: bool = False) -> dict[str, Any]:
    paddle.seed(seed)
    model = Net(bf16=bf16)
    warmup = paddle.optimizer.lr.LinearWarmup(paddle.optimizer.lr.StepDecay(0.1, 2), 2, 0.0, 0.1)
    optimizer = paddle.optimizer.AdamW(warmup, parameters=model.parameters(), multi_precision=bf16)
    for _ in range(steps):
        if bf16:  # the CPU has no kernel for such a step
            fill(optimizer, model)
        else:
            model(paddle.arange(7)).square().mean().backward()
            optimizer.step()
            optimizer.clear_grad()
        warmup.step()
    return {"model": model, "optimizer": optimizer}


def fill(optimizer: Any, model: Any) -> None:
    block = paddle.static.default_main_program().global_block()
    optimizer._create_accumulators(block, [p for p in model.parameters() if not p.stop_gradient])
    made = [v for values in optimizer._accumulators.values() for v in values.values()]
    for value in [*made, *optimizer._master_weights.values()]:
        value.set_value(paddle.rand(value.shape))


@pytest.fixture
def place(tmp_path: Path) -> Path:
    return tmp_path / "checkpoints"


def saved(place: Path, state: dict[str, Any]) -> tuple[Run, CheckpointId]:
    holdfast.save(place, state, step=3, run="digits")
    run = Repository.open(open_storage(place)).run("digits")
    return run, run.resolve("latest")


def imported(place: Path, path: Path, name: str = "new", **options: Any) -> Any:
    repository = Repository.create(open_storage(place, create=True))
    return import_checkpoint(repository, name, path, **options)


def bits(value: Any) -> Any:
    if isinstance(value, paddle.Tensor):
        return (str(value.dtype), tuple(value.shape), np.array(value).tobytes())
    if isinstance(value, dict):
        return {key: bits(item) for key, item in value.items()}
    return value


def kept(optimizer: Any, model: Any) -> Any:
    """What an optimizer holds, by parameter and not by Paddle's counted names."""
    names = {p.name: key for key, p in model.named_parameters()}
    masters = {names[k]: bits(v) for k, v in optimizer._master_weights.items()}
    owners = {v.name: names[k] for k, v in optimizer._master_weights.items()} | names
    values = {
        (kind, owners[owner]): bits(value)
        for kind, by_owner in optimizer._accumulators.items()
        for owner, value in by_owner.items()
    }
    return values, masters, optimizer._learning_rate.state_dict()


@pytest.mark.parametrize("bf16", [False, True])
def test_paddle_loads_its_own_files_with_the_same_bits(place: Path, tmp_path: Path, bf16: bool) -> None:
    state = trained(bf16=bf16)
    run, checkpoint = saved(place, state)
    done = export_checkpoint(run, checkpoint, tmp_path / "m.pdparams")
    assert done.paths == [str(tmp_path / "m.pdopt"), str(tmp_path / "m.pdparams")]
    weights = paddle.load(str(tmp_path / "m.pdparams"))
    assert bits(weights) == bits(dict(state["model"].state_dict()))
    assert {k: v.name for k, v in weights.items()} == {
        k: v.name for k, v in state["model"].named_parameters()
    }
    values = paddle.load(str(tmp_path / "m.pdopt"))
    own = state["optimizer"].state_dict()
    assert bits(values) == bits(own)
    fresh = trained(7, 1, bf16=bf16)
    assert fresh["model"].set_state_dict(weights) == ([], [])


def test_paddle_goes_on_from_its_own_files(place: Path, tmp_path: Path) -> None:
    state = trained()
    run, checkpoint = saved(place, state)
    export_checkpoint(run, checkpoint, tmp_path / "m.pdparams")
    own, exported = (paddle.load(str(tmp_path / "m.pdopt")), state["optimizer"].state_dict())
    state["optimizer"].set_state_dict(own)
    assert bits(state["optimizer"].state_dict()) == bits(exported)


@pytest.mark.parametrize("bf16", [False, True])
@pytest.mark.parametrize("source", ["holdfast", "paddle"])
def test_both_files_come_back_into_live_objects(place: Path, tmp_path: Path, bf16: bool, source: str) -> None:
    state = trained(bf16=bf16)
    if source == "holdfast":
        run, checkpoint = saved(place, state)
        export_checkpoint(run, checkpoint, tmp_path / "m.pdparams")
    else:
        paddle.save(state["model"].state_dict(), str(tmp_path / "m.pdparams"))
        paddle.save(state["optimizer"].state_dict(), str(tmp_path / "m.pdopt"))
    done = imported(place, tmp_path / "m.pdparams")
    assert done.entries == ["model", "optimizer"]
    fresh = trained(7, 1, bf16=bf16)  # its parameters have other names by now
    holdfast.load(place, fresh, run="new")
    assert bits(dict(fresh["model"].state_dict())) == bits(dict(state["model"].state_dict()))
    assert kept(fresh["optimizer"], fresh["model"]) == kept(state["optimizer"], state["model"])
    for live in (state, fresh) if not bf16 else ():
        live["model"](paddle.arange(7)).square().mean().backward()
        live["optimizer"].step()
    assert bits(dict(fresh["model"].state_dict())) == bits(dict(state["model"].state_dict()))


def test_an_import_is_exported_again(place: Path, tmp_path: Path) -> None:
    state = trained()
    paddle.save(state["model"].state_dict(), str(tmp_path / "m.pdparams"))
    paddle.save(state["optimizer"].state_dict(), str(tmp_path / "m.pdopt"))
    result = imported(place, tmp_path / "m.pdopt")
    run = Repository.open(open_storage(place)).run("new")
    export_checkpoint(run, result.checkpoint, tmp_path / "again.pdparams")
    for suffix in ("pdparams", "pdopt"):
        first, second = (paddle.load(str(tmp_path / f"{n}.{suffix}")) for n in ("m", "again"))
        assert bits(first) == bits(second)


def test_optimizer_that_does_not_fit_is_refused(place: Path, tmp_path: Path) -> None:
    state = trained()
    paddle.save(state["optimizer"].state_dict(), str(tmp_path / "m.pdopt"))
    imported(place, tmp_path / "m.pdopt")
    fresh = trained(7, 0)  # without .pdparams, Paddle's shifted names cannot be matched
    with pytest.raises(MismatchError, match="moment1"):
        holdfast.load(place, fresh, run="new", only="optimizer")


def enabled(scale: float) -> Any:
    scaler = paddle.amp.GradScaler(enable=False, init_loss_scaling=scale)
    vars(scaler).update(
        _enable=True,  # Paddle does so on devices only
        _scale=paddle.to_tensor([scale]),
        _init_loss_scaling=scale,
        _incr_ratio=2.0,
        _decr_ratio=0.5,
        _incr_every_n_steps=7,
        _decr_every_n_nan_or_inf=1,
        _incr_count=3,
        _decr_count=0,
        _use_dynamic_loss_scaling=True,
    )
    return scaler


def test_mixed_files_keep_their_entries(place: Path, tmp_path: Path) -> None:
    state = trained()
    scaler = enabled(128.0)
    content = {"net": state["model"].state_dict(), "scaler": scaler.state_dict(), "epoch": 3}
    paddle.save(content, str(tmp_path / "all.pdparams"))
    done = imported(place, tmp_path / "all.pdparams")
    assert done.entries == ["net", "scaler", "epoch"]
    fresh = {"net": Net(), "scaler": enabled(2.0), "epoch": 0}
    holdfast.load(place, fresh, run="new")
    assert fresh["epoch"] == 3
    assert fresh["scaler"].state_dict() == scaler.state_dict()
    assert bits(dict(fresh["net"].state_dict())) == bits(dict(state["model"].state_dict()))


def test_safetensors_round_trip(place: Path, tmp_path: Path) -> None:
    from safetensors.paddle import load_file

    state = trained(bf16=True)
    run, checkpoint = saved(place, state)
    export_checkpoint(run, checkpoint, tmp_path / "m.safetensors", only=["model"])
    live = bits(dict(state["model"].state_dict()))
    assert bits(load_file(str(tmp_path / "m.safetensors"), device="cpu")) == live
    imported(place, tmp_path / "m.safetensors")
    fresh = Net(bf16=True)
    holdfast.load(place, {"model": fresh}, run="new")
    assert bits(dict(fresh.state_dict())) == live


def test_what_paddles_files_lose_is_refused(place: Path, tmp_path: Path) -> None:
    layer = nn.Linear(2, 2)
    layer.register_buffer("eighth", paddle.ones([2]).astype("float8_e4m3fn"))
    run, checkpoint = saved(place, {"model": layer, "n": 1})
    with pytest.raises(UnsupportedError, match="eighth has dtype float8_e4m3fn"):
        export_checkpoint(run, checkpoint, tmp_path / "m.pdparams")
    with pytest.raises(UnsupportedError, match="comes from paddle"):
        export_checkpoint(run, checkpoint, tmp_path / "m.pt")
    with pytest.raises(UsageError, match="no optimizer"):
        export_checkpoint(run, checkpoint, tmp_path / "m.pdopt")
    assert [p.name for p in tmp_path.iterdir()] == ["checkpoints"]


def test_of_a_pair_neither_file_is_replaced_if_one_cannot_be_written(place: Path, tmp_path: Path) -> None:
    state = trained()
    state["model"].register_buffer("eighth", paddle.ones([2]).astype("float8_e4m3fn"))
    run, checkpoint = saved(place, state)
    for name in ("m.pdparams", "m.pdopt"):
        (tmp_path / name).write_text("of a step before")
    with pytest.raises(UnsupportedError, match="eighth has dtype float8_e4m3fn"):
        export_checkpoint(run, checkpoint, tmp_path / "m.pdparams", overwrite=True)
    assert {p.name: p.read_text() for p in tmp_path.glob("[!c]*")} == {
        "m.pdparams": "of a step before",
        "m.pdopt": "of a step before",
    }


class Payload:
    def __init__(self, target: Path) -> None:
        self.target = target

    def __reduce__(self) -> Any:
        return (Path.touch, (self.target,))


@pytest.mark.parametrize("protocol", [0, 2, 4])
def test_a_malicious_pickle_is_refused_and_not_run(place: Path, tmp_path: Path, protocol: int) -> None:
    content = {"w": np.ones(2), "x": Payload(tmp_path / "ran")}
    (tmp_path / "bad.pdparams").write_bytes(pickle.dumps(content, protocol=protocol))
    with pytest.raises(UnsupportedError, match="was not run"):
        imported(place, tmp_path / "bad.pdparams")
    assert not (tmp_path / "ran").exists()
    assert not Repository.open(open_storage(place)).runs()


def test_cut_files_are_named(place: Path, tmp_path: Path) -> None:
    paddle.save(trained()["model"].state_dict(), str(tmp_path / "m.pdparams"))
    whole = (tmp_path / "m.pdparams").read_bytes()
    for size in range(0, len(whole), 97):
        (tmp_path / "cut.pdparams").write_bytes(whole[:size])
        with pytest.raises(DamagedError, match=r"cut\.pdparams"):
            imported(place, tmp_path / "cut.pdparams")


def test_what_a_scaler_and_a_schedule_export_is_their_own_state(place: Path) -> None:
    schedule = paddle.optimizer.lr.ReduceOnPlateau(0.5, patience=2)
    schedule.step(1.0)
    state = {"scaler": enabled(64.0), "schedule": schedule, "off": paddle.amp.GradScaler(enable=False)}
    run, checkpoint = saved(place, state)
    values = read_state(run, checkpoint)
    assert values["scaler"].pop("scale").item() == 64.0
    own = {name: item.state_dict() for name, item in state.items()}
    assert own["scaler"].pop("scale").item() == 64.0
    assert bits(values) == bits(own)


def test_a_folder_of_pairs_becomes_a_run(place: Path, tmp_path: Path) -> None:
    folder = tmp_path / "saved"
    folder.mkdir()
    states = {step: trained(step, step) for step in (2, 4)}
    for step, state in states.items():
        paddle.save(state["model"].state_dict(), str(folder / f"{step}.pdparams"))
        if step == 4:
            paddle.save(state["optimizer"].state_dict(), str(folder / f"{step}.pdopt"))
    paddle.save(states[2]["model"].state_dict(), str(folder / "final.pdparams"))
    repository = Repository.create(open_storage(place, create=True))
    series = import_folder(repository, "new", folder)
    assert [(i.checkpoint.step, i.checkpoint.kind) for i in series.imported] == [(2, "thin"), (4, "full")]
    assert list(series.failed) == ["final.pdparams"]
    fresh = trained(9, 1)
    with holdfast.Checkpointer(place, fresh, run="new", save=None, signals=False) as ckpt:
        assert ckpt.progress.step == 4
        assert bits(fresh["model"].state_dict()) == bits(states[4]["model"].state_dict())
        mine, theirs = (kept(s["optimizer"], s["model"]) for s in (fresh, states[4]))
        assert mine == theirs
