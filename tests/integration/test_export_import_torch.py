from __future__ import annotations

import pickle
import struct
import zipfile
from pathlib import Path
from typing import Any
from unittest.mock import Mock

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, load_model, save_model
from torch import nn

import holdfast
from holdfast.domain.names import CheckpointId
from holdfast.errors import (
    DamagedError,
    MismatchError,
    NotFoundError,
    StorageError,
    UnsupportedError,
    UsageError,
)
from holdfast.formats import huggingface, importing
from holdfast.formats.export import export_checkpoint
from holdfast.formats.foreign import Options
from holdfast.formats.importing import import_checkpoint
from holdfast.formats.reading import SavedState, read_state
from holdfast.repository import records
from holdfast.repository.moving import MovingRecord
from holdfast.repository.repository import Repository
from holdfast.repository.run import Run
from holdfast.storage.urls import open_storage

torch.set_num_threads(1)


class Net(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.embed = nn.Embedding(7, 4)
        self.norm = nn.BatchNorm1d(4)
        self.head = nn.Linear(4, 7, bias=False)
        self.head.weight = self.embed.weight
        self.brain = nn.Parameter(torch.randn(3, 5).to(torch.bfloat16))
        self.register_buffer("eighth", torch.randn(6).to(torch.float8_e4m3fn))
        self.register_buffer("empty", torch.zeros(0, 3))
        self.register_buffer("passing", torch.ones(2), persistent=False)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        y: torch.Tensor = self.head(self.norm(self.embed(x)))
        return y + self.brain.float().sum()


def trained(seed: int = 0, steps: int = 3) -> dict[str, Any]:
    torch.manual_seed(seed)
    model = Net()
    optimizer = torch.optim.AdamW(
        [{"params": [model.embed.weight], "lr": 0.01}, {"params": [*model.norm.parameters(), model.brain]}]
    )
    scheduler = torch.optim.lr_scheduler.SequentialLR(
        optimizer,
        [
            torch.optim.lr_scheduler.LambdaLR(optimizer, lambda epoch: 0.9**epoch),
            torch.optim.lr_scheduler.StepLR(optimizer, 2),
        ],
        [2],
    )
    for _ in range(steps):
        optimizer.zero_grad()
        model(torch.arange(7)).square().mean().backward()
        optimizer.step()
        scheduler.step()
    return {"model": model, "optimizer": optimizer, "scheduler": scheduler, "best": 0.5}


@pytest.fixture
def place(tmp_path: Path) -> Path:
    return tmp_path / "checkpoints"


@pytest.fixture
def state() -> dict[str, Any]:
    return trained()


def saved(place: Path, state: dict[str, Any], step: int = 3) -> tuple[Run, CheckpointId]:
    holdfast.save(place, state, step=step, run="digits")
    run = Repository.open(open_storage(place)).run("digits")
    return run, run.resolve("latest")


def imported(place: Path, path: Path, name: str = "new", **options: Any) -> Any:
    repository = Repository.create(open_storage(place, create=True))
    return import_checkpoint(repository, name, path, **options)


def same(left: Any, right: Any) -> bool:
    if isinstance(left, torch.Tensor):
        if left.dtype != right.dtype or left.shape != right.shape:
            return False
        bits = [t.detach().contiguous().reshape(-1).view(torch.uint8) for t in (left, right)]
        return torch.equal(*bits)
    if isinstance(left, dict):
        return left.keys() == right.keys() and all(same(left[k], right[k]) for k in left)
    if isinstance(left, list | tuple):
        return len(left) == len(right) and all(same(a, b) for a, b in zip(left, right, strict=True))
    return bool(left == right)


def test_pt_loads_in_torch_with_the_same_bits(place: Path, state: dict[str, Any], tmp_path: Path) -> None:
    run, checkpoint = saved(place, state)
    done = export_checkpoint(run, checkpoint, tmp_path / "out.pt")
    loaded = torch.load(tmp_path / "out.pt", weights_only=True)
    assert done.left_out == []
    assert same(loaded["model"], dict(state["model"].state_dict()))
    assert same(loaded["optimizer"], state["optimizer"].state_dict())
    assert loaded["best"] == 0.5
    fresh = trained(1, 1)
    fresh["model"].load_state_dict(loaded["model"])
    fresh["optimizer"].load_state_dict(loaded["optimizer"])
    fresh["scheduler"].load_state_dict(loaded["scheduler"])
    assert same(fresh["scheduler"].state_dict(), state["scheduler"].state_dict())
    assert loaded["model"]["head.weight"].data_ptr() == loaded["model"]["embed.weight"].data_ptr()


def test_one_entry_is_written_bare(place: Path, state: dict[str, Any], tmp_path: Path) -> None:
    run, checkpoint = saved(place, state)
    export_checkpoint(run, checkpoint, tmp_path / "model.pth", only=["model"])
    loaded = torch.load(tmp_path / "model.pth", weights_only=True)
    assert same(loaded, dict(state["model"].state_dict()))


@pytest.mark.parametrize(
    "make",
    [
        lambda o: torch.optim.lr_scheduler.LambdaLR(o, [lambda e: 0.5**e]),
        lambda o: torch.optim.lr_scheduler.OneCycleLR(o, 1.0, 10),
        lambda o: torch.optim.lr_scheduler.CyclicLR(o, 0.1, 1.0),
        lambda o: torch.optim.lr_scheduler.CosineAnnealingWarmRestarts(o, 3),
        lambda o: torch.optim.lr_scheduler.ChainedScheduler(
            [torch.optim.lr_scheduler.ConstantLR(o), torch.optim.lr_scheduler.StepLR(o, 3)]
        ),
    ],
)
def test_schedulers_keep_torchs_own_shape(place: Path, tmp_path: Path, make: Any) -> None:
    def build(steps: int) -> dict[str, Any]:
        optimizer = torch.optim.SGD([nn.Parameter(torch.ones(2))], lr=0.1, momentum=0.9)
        scheduler = make(optimizer)
        for _ in range(steps):
            optimizer.step()
            scheduler.step()
        return {"optimizer": optimizer, "scheduler": scheduler}

    state = build(4)
    run, checkpoint = saved(place, state)
    exported = read_state(run, checkpoint, only=["scheduler"])["scheduler"]
    assert same(exported, state["scheduler"].state_dict())
    export_checkpoint(run, checkpoint, tmp_path / "s.pt")
    imported(place, tmp_path / "s.pt")
    fresh = build(0)
    holdfast.load(place, fresh, run="new")
    assert same(fresh["scheduler"].state_dict(), state["scheduler"].state_dict())
    assert same(fresh["optimizer"].state_dict(), state["optimizer"].state_dict())


def test_safetensors_has_every_tensor_once(place: Path, state: dict[str, Any], tmp_path: Path) -> None:
    run, checkpoint = saved(place, state)
    steps: list[int] = []
    done = export_checkpoint(run, checkpoint, tmp_path / "all.safetensors", advance=steps.append)
    loaded = load_file(tmp_path / "all.safetensors")
    live = state["model"].state_dict()
    assert same(loaded["model.brain"], live["brain"])
    assert same(loaded["model.eighth"], live["eighth"])
    assert same(loaded["model.embed.weight"], live["embed.weight"])
    assert "model.head.weight" not in loaded
    moments = state["optimizer"].state_dict()["state"]
    assert same(loaded["optimizer.state.0.exp_avg"], moments[0]["exp_avg"])
    assert done.left_out == ["scheduler", "best"]
    assert sum(steps) == done.size_bytes == sum(t.numel() * t.element_size() for t in loaded.values())


def test_safetensors_of_a_model_loads_with_its_own_library(
    place: Path, state: dict[str, Any], tmp_path: Path
) -> None:
    run, checkpoint = saved(place, state)
    export_checkpoint(run, checkpoint, tmp_path / "model.safetensors", only=["model"])
    fresh = Net()
    assert load_model(fresh, tmp_path / "model.safetensors") == (set(), [])
    assert same(dict(fresh.state_dict()), dict(state["model"].state_dict()))


def test_dtypes_that_safetensors_lacks_are_refused_by_name(place: Path, tmp_path: Path) -> None:
    run, checkpoint = saved(place, {"wave": torch.ones(2, dtype=torch.complex128)})
    with pytest.raises(UnsupportedError, match="wave has dtype complex128"):
        export_checkpoint(run, checkpoint, tmp_path / "x.safetensors")
    assert not (tmp_path / "x.safetensors").exists()


@pytest.mark.parametrize("name", ["model.pt", "model.safetensors", "folder/"])
def test_model_comes_back_into_a_live_module(
    place: Path, state: dict[str, Any], tmp_path: Path, name: str
) -> None:
    run, checkpoint = saved(place, state, step=42)
    export_checkpoint(run, checkpoint, f"{tmp_path}/{name}", only=["model"])
    done = imported(place, tmp_path / name)
    fresh = Net()
    fresh.brain.requires_grad_(False)
    fresh.eval()
    holdfast.load(place, {"model": fresh}, run="new", only="model")
    assert same(dict(fresh.state_dict()), dict(state["model"].state_dict()))
    assert fresh.head.weight is fresh.embed.weight
    assert fresh.embed.weight.requires_grad
    assert not fresh.brain.requires_grad  # a file says nothing of these
    assert not fresh.training
    assert done.checkpoint.step == (0 if name.endswith(".pt") else 42)


def test_everything_comes_back_from_pt(place: Path, state: dict[str, Any], tmp_path: Path) -> None:
    run, checkpoint = saved(place, state)
    export_checkpoint(run, checkpoint, tmp_path / "all.pt")
    done = imported(place, tmp_path / "all.pt", step=3)
    assert done.entries == ["model", "optimizer", "scheduler", "best"]
    fresh = trained(5, 1)
    holdfast.load(place, fresh, run="new")
    for name in ("model", "optimizer", "scheduler"):
        assert same(dict(fresh[name].state_dict()), dict(state[name].state_dict())), name
    assert fresh["best"] == 0.5
    assert fresh["scheduler"]._schedulers[0].lr_lambdas[0](2) == pytest.approx(0.81)


def test_an_import_can_be_trained_on(place: Path, state: dict[str, Any], tmp_path: Path) -> None:
    run, checkpoint = saved(place, state)
    export_checkpoint(run, checkpoint, tmp_path / "all.pt")
    imported(place, tmp_path / "all.pt", step=3)
    fresh = trained(5, 0)
    with holdfast.Checkpointer(place, fresh, run="new", save=None, signals=False) as ckpt:
        assert ckpt.restored is not None
        assert ckpt.progress.step == 3
        assert same(dict(fresh["model"].state_dict()), dict(state["model"].state_dict()))


def test_live_dicts_of_models_are_loaded_in_place(place: Path, tmp_path: Path) -> None:
    nets = {"a": nn.Linear(2, 3), "b": nn.Linear(3, 2)}
    torch.save(
        {"nets": {k: n.state_dict() for k, n in nets.items()}, "list": [nets["a"].state_dict()]},
        tmp_path / "n.pt",
    )
    imported(place, tmp_path / "n.pt")
    fresh = {"nets": {"a": nn.Linear(2, 3), "b": nn.Linear(3, 2)}, "list": [nn.Linear(2, 3)]}
    holdfast.load(place, fresh, run="new")
    assert isinstance(fresh["nets"], dict)
    for key, net in nets.items():
        assert same(dict(fresh["nets"][key].state_dict()), dict(net.state_dict()))
    assert same(dict(fresh["list"][0].state_dict()), dict(nets["a"].state_dict()))  # type: ignore[index]


def test_wrapped_names_are_unwrapped(place: Path, tmp_path: Path) -> None:
    model = nn.Linear(2, 3)
    torch.save({f"module._orig_mod.{k}": v for k, v in model.state_dict().items()}, tmp_path / "ddp.pt")
    imported(place, tmp_path / "ddp.pt")
    fresh = nn.Linear(2, 3)
    holdfast.load(place, {"model": fresh}, run="new")
    assert same(dict(fresh.state_dict()), dict(model.state_dict()))


def test_foreign_tied_weights_fit_either_way(place: Path, state: dict[str, Any], tmp_path: Path) -> None:
    model = state["model"]
    save_model(model, str(tmp_path / "own.safetensors"))
    both = {k: v.clone() for k, v in model.state_dict().items()}
    torch.save(both, tmp_path / "both.pt")
    torch.save({k: v for k, v in both.items() if k != "embed.weight"}, tmp_path / "other.pt")
    for number, name in enumerate(["own.safetensors", "both.pt", "other.pt"]):
        imported(place, tmp_path / name, f"r{number}")
        fresh = Net()
        holdfast.load(place, {"model": fresh}, run=f"r{number}")
        assert same(dict(fresh.state_dict()), dict(model.state_dict())), name


def test_differences_are_one_error_and_touch_nothing(place: Path, tmp_path: Path) -> None:
    torch.save({"weight": torch.ones(3, 3), "other": torch.ones(1)}, tmp_path / "m.pt")
    imported(place, tmp_path / "m.pt")
    fresh = nn.Linear(2, 3)
    before = fresh.weight.detach().clone()
    with pytest.raises(MismatchError) as caught:
        holdfast.load(place, {"model": fresh}, run="new")
    assert caught.value.missing == ("model/bias",)
    assert caught.value.unexpected == ("model/other",)
    assert "model/weight" in caught.value.mismatched[0]
    assert torch.equal(fresh.weight, before)


def test_optimizer_of_another_model_is_refused(place: Path, tmp_path: Path) -> None:
    small, large = nn.Linear(2, 2), nn.Linear(4, 4)
    optimizer = torch.optim.Adam(small.parameters())
    small(torch.ones(1, 2)).sum().backward()
    optimizer.step()
    torch.save({"optimizer": optimizer.state_dict()}, tmp_path / "o.pt")
    imported(place, tmp_path / "o.pt")
    with pytest.raises(MismatchError, match="exp_avg"):
        holdfast.load(place, {"optimizer": torch.optim.Adam(large.parameters())}, run="new", only="optimizer")


def test_optimizer_keeps_what_torch_would_cast(place: Path, tmp_path: Path) -> None:
    def build() -> torch.optim.Adam:
        parameter = nn.Parameter(torch.ones(3, dtype=torch.bfloat16))
        optimizer = torch.optim.Adam([parameter])
        optimizer.state[parameter] = {
            "step": torch.tensor(1.0),
            "exp_avg": torch.full((3,), 1.001),
            "exp_avg_sq": torch.full((3,), 1.001),
        }
        return optimizer

    torch.save({"optimizer": build().state_dict()}, tmp_path / "o.pt")
    imported(place, tmp_path / "o.pt")
    fresh = torch.optim.Adam([nn.Parameter(torch.ones(3, dtype=torch.bfloat16))])
    holdfast.load(place, {"optimizer": fresh}, run="new")
    assert same(fresh.state_dict(), build().state_dict())


def test_hugging_face_folder(place: Path, state: dict[str, Any], tmp_path: Path) -> None:
    state["config"] = {"hidden": 4, "names": ["a"]}
    run, checkpoint = saved(place, state, step=9)
    done = export_checkpoint(run, checkpoint, f"{tmp_path}/hf/")
    folder = tmp_path / "hf"
    assert sorted(p.name for p in folder.iterdir()) == [
        "config.json",
        "model.safetensors",
        "trainer_state.json",
    ]
    assert done.left_out == ["optimizer", "scheduler", "best"]
    live = dict(state["model"].state_dict())
    assert same(
        load_file(folder / "model.safetensors"), {k: v for k, v in live.items() if k != "head.weight"}
    )
    result = imported(place, folder)
    assert result.entries == ["model", "config"]
    assert result.checkpoint.step == 9


def test_hugging_face_shards(place: Path, state: dict[str, Any], tmp_path: Path) -> None:
    run, checkpoint = saved(place, state)
    with run.repository.holding():
        opened = SavedState(run, checkpoint)
        view = opened.state_dicts()["model"]
        huggingface.save_folder(opened, view, "pt", tmp_path / "hf", overwrite=False, shard_bytes=64)
    files = sorted(p.name for p in (tmp_path / "hf").glob("*.safetensors"))
    assert len(files) > 2
    assert files[0] == f"model-00001-of-{len(files):05d}.safetensors"
    imported(place, tmp_path / "hf")
    fresh = Net()
    holdfast.load(place, {"model": fresh}, run="new", only="model")
    assert same(dict(fresh.state_dict()), dict(state["model"].state_dict()))


def test_multi_entry_safetensors_bring_what_they_hold_whole(
    place: Path, state: dict[str, Any], tmp_path: Path
) -> None:
    state["mask"] = torch.arange(3)
    run, checkpoint = saved(place, state)
    export_checkpoint(run, checkpoint, tmp_path / "all.safetensors")
    done = imported(place, tmp_path / "all.safetensors")
    assert (done.entries, done.left_out) == (["model", "mask"], ["optimizer"])
    fresh = {"model": Net(), "mask": torch.zeros(3, dtype=torch.int64)}
    holdfast.load(place, fresh, run="new")
    assert same(dict(fresh["model"].state_dict()), dict(state["model"].state_dict()))  # type: ignore[union-attr]
    assert torch.equal(fresh["mask"], state["mask"])


def test_read_state_gives_plain_values(place: Path, state: dict[str, Any]) -> None:
    run, checkpoint = saved(place, state)
    values = read_state(run, checkpoint)
    assert same(values["model"], dict(state["model"].state_dict()))
    assert values["best"] == 0.5
    assert read_state(run, checkpoint, only=["best"]) == {"best": 0.5}
    with pytest.raises(NotFoundError, match="has no nothing; it holds best, model"):
        read_state(run, checkpoint, only=["nothing"])


def test_sparse_and_odd_values_survive_pt(place: Path, tmp_path: Path) -> None:
    sparse = torch.eye(3).to_sparse()
    odd = {
        "empty": b"",
        "bytes": b"\xff\x00",
        "set": {1, 2},
        "big": 2**80,
        "c": 1j,
        "none": None,
        "t": (1, [2]),
    }
    run, checkpoint = saved(place, {"sparse": sparse, "odd": odd})
    export_checkpoint(run, checkpoint, tmp_path / "x.pt")
    loaded = torch.load(tmp_path / "x.pt", weights_only=True)
    assert torch.equal(loaded["sparse"].to_dense(), torch.eye(3))
    assert loaded["odd"] == odd
    imported(place, tmp_path / "x.pt")
    state: dict[str, Any] = {"sparse": torch.zeros(3, 3).to_sparse(), "odd": {}}
    holdfast.load(place, state, run="new")
    assert torch.equal(state["sparse"].to_dense(), torch.eye(3))
    assert state["odd"] == odd


class Payload:
    def __init__(self, target: Path) -> None:
        self.target = target

    def __reduce__(self) -> Any:
        return (Path.touch, (self.target,))


def test_a_malicious_pt_is_refused_and_not_run(place: Path, tmp_path: Path) -> None:
    torch.save({"model": {"w": torch.ones(1)}, "x": Payload(tmp_path / "ran")}, tmp_path / "bad.pt")
    with pytest.raises(UnsupportedError, match="was not run"):
        imported(place, tmp_path / "bad.pt")
    (tmp_path / "raw.bin").write_bytes(pickle.dumps(Payload(tmp_path / "ran"), protocol=2))
    with pytest.raises((UnsupportedError, DamagedError)):
        imported(place, tmp_path / "raw.bin")
    assert not (tmp_path / "ran").exists()
    assert not Repository.open(open_storage(place)).runs()


def test_broken_files_are_named(place: Path, state: dict[str, Any], tmp_path: Path) -> None:
    run, checkpoint = saved(place, state)
    export_checkpoint(run, checkpoint, tmp_path / "m.pt")
    whole = (tmp_path / "m.pt").read_bytes()
    cut = {b"": "is empty", b"hello": "is no file of torch.save, or a damaged one"}
    cut |= {whole[:end]: "is cut short: its end is missing" for end in (9, len(whole) // 2, -30)}
    torch.save({"w": torch.ones(3)}, tmp_path / "old.pt", _use_new_zipfile_serialization=False)
    cut[(tmp_path / "old.pt").read_bytes()[:-1]] = "is cut short: its end is missing"
    for number, (content, what) in enumerate(cut.items()):
        (tmp_path / "cut.pt").write_bytes(content)
        with pytest.raises(DamagedError) as caught:
            imported(place, tmp_path / "cut.pt", f"r{number}")
        assert str(caught.value) == f"cut.pt {what}. Fetch or write it again."
    with zipfile.ZipFile(tmp_path / "zip.pt", "w") as archive:
        archive.writestr("readme", "no")
    with pytest.raises(DamagedError, match=r"zip\.pt"):
        imported(place, tmp_path / "zip.pt")
    (tmp_path / "long.safetensors").write_bytes(struct.pack("<Q", 2**40) + b"{}")
    with pytest.raises(DamagedError, match=r"long\.safetensors"):
        imported(place, tmp_path / "long.safetensors")
    with pytest.raises(NotFoundError, match="no file"):
        imported(place, tmp_path / "absent.pt")
    with pytest.raises(UsageError, match="no known kind"):
        imported(place, tmp_path / "checkpoints" / "holdfast.json")


@pytest.mark.parametrize("name", ["base.safetensors", "model-final.safetensors", "myconfig.json"])
def test_a_folder_with_files_of_others_is_not_replaced(
    place: Path, state: dict[str, Any], tmp_path: Path, name: str
) -> None:
    run, checkpoint = saved(place, state)
    (tmp_path / "models").mkdir()
    (tmp_path / "models" / name).write_bytes(b"years")
    with pytest.raises(UsageError, match="which no export wrote"):
        export_checkpoint(run, checkpoint, f"{tmp_path}/models/", only=["model"], overwrite=True)
    assert (tmp_path / "models" / name).read_bytes() == b"years"
    (tmp_path / "models" / name).unlink()
    for _ in range(2):
        export_checkpoint(run, checkpoint, f"{tmp_path}/models/", only=["model"], overwrite=True)


def test_an_import_never_touches_an_existing_run(place: Path, state: dict[str, Any], tmp_path: Path) -> None:
    run, checkpoint = saved(place, state)
    export_checkpoint(run, checkpoint, tmp_path / "m.pt")
    with pytest.raises(UsageError, match="exists already"):
        imported(place, tmp_path / "m.pt", "digits")
    assert run.latest() == checkpoint


def test_an_import_that_was_cut_short_is_simply_done_again(
    place: Path, state: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run, checkpoint = saved(place, state)
    export_checkpoint(run, checkpoint, tmp_path / "m.pt")
    with monkeypatch.context() as full:
        full.setattr(importing, "commit", Mock(side_effect=StorageError("No space is left.")))
        with pytest.raises(StorageError):
            imported(place, tmp_path / "m.pt", "again")
    assert imported(place, tmp_path / "m.pt", "again").checkpoint == run.repository.run("again").latest()


def test_no_entry_of_a_file_takes_the_place_of_another(place: Path, tmp_path: Path) -> None:
    torch.save({1: {"a": torch.ones(2)}, "1": {"a": torch.zeros(2)}}, tmp_path / "m.pt")
    with pytest.raises(UsageError, match="would become the entry '1'"):
        imported(place, tmp_path / "m.pt")


def test_a_name_that_a_run_is_being_moved_to_is_taken(
    place: Path, state: dict[str, Any], tmp_path: Path
) -> None:
    run, checkpoint = saved(place, state)
    export_checkpoint(run, checkpoint, tmp_path / "m.pt")
    run.storage.put(run.repository.run("new").layout.moving, [records.encode(MovingRecord("digits"))])
    with pytest.raises(UsageError, match="exists already"):
        imported(place, tmp_path / "m.pt", "new")


def test_a_torch_model_is_not_offered_to_paddle(place: Path, state: dict[str, Any], tmp_path: Path) -> None:
    run, checkpoint = saved(place, state)
    with pytest.raises(UnsupportedError, match=r"model, .* come from torch"):
        export_checkpoint(run, checkpoint, tmp_path / "m.pdparams")
    export_checkpoint(run, checkpoint, tmp_path / "m.safetensors", only=["model"])
    imported(place, tmp_path / "m.safetensors", options=Options(framework="paddle", model="net"))
    with pytest.raises(MismatchError, match=r"paddle\.imported"):
        holdfast.load(place, {"net": Net()}, run="new")


def test_damage_leaves_no_file(place: Path, state: dict[str, Any], tmp_path: Path) -> None:
    run, checkpoint = saved(place, state)
    for pack in place.glob("packs/*/*.pack"):
        data = bytearray(pack.read_bytes())
        data[16] ^= 1
        pack.write_bytes(data)
    for name in ("x.pt", "x.safetensors", "x/"):
        with pytest.raises(DamagedError, match="digits@3"):
            export_checkpoint(run, checkpoint, f"{tmp_path}/{name}")
    assert [p.name for p in tmp_path.iterdir()] == ["checkpoints"]


class Calls:
    def __init__(self, function: Any, *arguments: Any) -> None:
        self.reduced = (function, arguments)

    def __reduce__(self) -> Any:
        return self.reduced


def test_numpy_arrays_in_torch_files_are_built_by_our_own_code(place: Path, tmp_path: Path) -> None:
    values: dict[str, Any] = {
        "w": np.arange(6.0).reshape(2, 3),
        "columns": np.asfortranarray(np.arange(6, dtype=np.int32).reshape(2, 3)),
        "score": np.float32(0.5),
        "nested": [np.ones(2, np.uint8)],
    }
    torch.save(values, tmp_path / "mixed.pt")
    imported(place, tmp_path / "mixed.pt")
    held = holdfast.open(place)["new"].latest.load()
    for name in ("w", "columns"):
        np.testing.assert_array_equal(held[name], values[name])
        assert held[name].dtype == values[name].dtype
    assert held["score"] == 0.5
    np.testing.assert_array_equal(held["nested"][0], np.ones(2, np.uint8))


@pytest.mark.parametrize(
    "evil",
    [
        Calls(np.ndarray, (2**40,)),
        Calls(np.dtype, "U100000000"),
        Calls(np.load, "x"),
        np.array([{"an": "object"}], dtype=object),
    ],
)
def test_numpys_own_constructors_are_never_called(place: Path, tmp_path: Path, evil: Any) -> None:
    torch.save({"w": torch.ones(2), "evil": evil}, tmp_path / "evil.pt")
    with pytest.raises((UnsupportedError, DamagedError)):
        imported(place, tmp_path / "evil.pt")
