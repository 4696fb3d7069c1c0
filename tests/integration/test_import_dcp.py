from __future__ import annotations

import json
import os
import pickle
import pickletools
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.distributed.checkpoint as dcp
from torch import nn
from torch.distributed.checkpoint.state_dict import get_model_state_dict, get_optimizer_state_dict

import holdfast
from holdfast.cli import app

FOREIGN = Path(__file__).parent / "foreign" / "distributed"
torch.set_num_threads(1)
pytestmark = pytest.mark.filterwarnings("ignore")  # DCP warns of being used without a process group


@pytest.fixture
def place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("HOLDFAST_REPOSITORY", str(tmp_path / "checkpoints"))
    return tmp_path / "checkpoints"


def trained(steps: int) -> tuple[nn.Module, torch.optim.Optimizer]:
    torch.manual_seed(steps)
    model = nn.Sequential(nn.Linear(3, 4), nn.BatchNorm1d(4))
    optimizer = torch.optim.AdamW(model.parameters())
    for _ in range(steps):
        model(torch.randn(5, 3)).square().mean().backward()
        optimizer.step()
        optimizer.zero_grad()
    return model, optimizer


def save(folder: Path, steps: int) -> tuple[nn.Module, torch.optim.Optimizer]:
    model, optimizer = trained(steps)
    state = {
        "model": get_model_state_dict(model),
        "optimizer": get_optimizer_state_dict(model, optimizer),
        "step": steps,
        "names": ["a", {"b": 2}],
    }
    dcp.save(state, checkpoint_id=str(folder), no_dist=True)
    return model, optimizer


def test_a_folder_of_dcp_checkpoints_becomes_a_run(
    place: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = tmp_path / "dcp"
    saved = {steps: save(folder / f"step-{steps}", steps) for steps in (3, 12)}
    assert app.run(["import", str(folder), "net", "--json"]) == 0
    told = json.loads(capsys.readouterr().out)
    assert [(c["step"], c["kind"]) for c in told["checkpoints"]] == [(3, "full"), (12, "full")]
    run = holdfast.open(place)["net"]
    for steps, (model, optimizer) in saved.items():
        fresh, moments = trained(1)
        run[steps].load(into={"model": fresh, "optimizer": moments}, only=["model", "optimizer"])
        assert all(
            torch.equal(a, b)
            for a, b in zip(fresh.state_dict().values(), model.state_dict().values(), strict=True)
        )
        for mine, theirs in zip(moments.state.values(), optimizer.state.values(), strict=True):
            assert all(torch.equal(mine[key], theirs[key]) for key in theirs)
    assert run[12].load()["names"] == ["a", {"b": 2}]


def test_shards_are_put_together(place: Path, tmp_path: Path) -> None:
    """As two ranks write them: each tensor in two pieces, in two files."""
    from torch.distributed.checkpoint import metadata as meta
    from torch.distributed.checkpoint.filesystem import _StorageInfo

    whole = torch.randn(5, 4).to(torch.bfloat16)
    folder = tmp_path / "sharded"
    folder.mkdir()
    places, chunks = {}, []
    for rank, (start, stop) in enumerate([(0, 3), (3, 5)]):
        offsets, sizes = torch.Size([start, 0]), torch.Size([stop - start, 4])
        with (folder / f"__{rank}_0.distcp").open("wb") as file:
            file.write(b"before")
            torch.save(whole[start:stop].clone(), file)
            length = file.tell() - 6
        chunks.append(meta.ChunkStorageMetadata(offsets, sizes))
        places[meta.MetadataIndex("w", offsets, rank)] = _StorageInfo(f"__{rank}_0.distcp", 6, length)
    properties = meta.TensorProperties(dtype=torch.bfloat16)
    described = meta.Metadata(
        {"w": meta.TensorStorageMetadata(properties, whole.size(), chunks)}, {"w": ("w",)}, places,
        meta.StorageMeta(checkpoint_id=folder),
    )  # fmt: skip
    (folder / ".metadata").write_bytes(pickle.dumps(described))
    assert app.run(["import", str(folder), "net", "--step", "7"]) == 0
    assert torch.equal(holdfast.open(place)["net"].latest.load()["model"]["w"], whole)
    described.state_dict_metadata["w"].chunks[1].sizes = torch.Size([1, 4])
    (folder / ".metadata").write_bytes(pickle.dumps(described))
    assert app.run(["import", str(folder), "bad"]) == 4


def test_what_two_ranks_have_written_is_whole(place: Path) -> None:
    assert app.run(["import", str(FOREIGN), "net"]) == 0
    held = holdfast.open(place)["net"][30].load()["model"]
    torch.manual_seed(3)
    assert torch.equal(held["w"], torch.randn(5, 3))
    assert torch.equal(held["v"], torch.randn(7).to(torch.bfloat16))
    assert torch.equal(held["all"], torch.arange(4))


def test_a_shard_that_is_missing_from_the_table_is_damage(place: Path, tmp_path: Path) -> None:
    folder = Path(shutil.copytree(FOREIGN / "step-30", tmp_path / "step-30"))
    described = pickle.loads((folder / ".metadata").read_bytes())
    described.state_dict_metadata["model.w"].chunks.pop()
    gone = [i for i in described.storage_data if i.fqn == "model.w" and any(i.offset)]
    for index in gone:
        del described.storage_data[index]
    (folder / ".metadata").write_bytes(pickle.dumps(described))
    assert app.run(["import", str(folder), "net"]) == 4


def test_metadata_is_never_executed(place: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    class Evil:
        def __reduce__(self) -> Any:
            return (os.mkdir, (str(tmp_path / "ran"),))

    folder = tmp_path / "step-1"
    save(folder, 1)
    (folder / ".metadata").write_bytes(pickle.dumps({"evil": Evil()}))
    assert app.run(["import", str(folder), "net"]) == 8
    assert "was not run" in capsys.readouterr().err
    assert not (tmp_path / "ran").exists()


@pytest.mark.parametrize("cut", [0.1, 0.5, 0.9, 0.99])
def test_a_cut_metadata_is_damage(place: Path, tmp_path: Path, cut: float) -> None:
    folder = tmp_path / "step-1"
    save(folder, 1)
    data = (folder / ".metadata").read_bytes()
    (folder / ".metadata").write_bytes(data[: int(len(data) * cut)])
    assert app.run(["import", str(folder), "net"]) == 4


def test_any_flipped_byte_of_the_metadata_is_refused_or_harmless(place: Path, tmp_path: Path) -> None:
    folder = tmp_path / "step-1"
    save(folder, 1)
    data = (folder / ".metadata").read_bytes()
    positions = [position or 0 for _, _, position in pickletools.genops(data)][::29]
    for number, position in enumerate(positions):
        changed = bytearray(data)
        changed[position] ^= 0x15
        (folder / ".metadata").write_bytes(bytes(changed))
        assert app.run(["import", str(folder), f"net{number}"]) in (0, 3, 4, 8)


def test_missing_and_short_shards_are_named(
    place: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = tmp_path / "step-1"
    save(folder, 1)
    (file,) = folder.glob("*.distcp")
    data = file.read_bytes()
    file.write_bytes(data[:-300])
    assert app.run(["import", str(folder), "net"]) == 4
    assert file.name in capsys.readouterr().err
    file.unlink()
    assert app.run(["import", str(folder), "net2"]) == 3
    assert f"no {file.name}" in capsys.readouterr().err


def test_a_shard_outside_the_folder_is_refused(
    place: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = tmp_path / "step-1"
    save(folder, 1)
    data = (folder / ".metadata").read_bytes()
    (folder / ".metadata").write_bytes(data.replace(b"__0_0.distcp", b"../_0.distcp"))
    assert app.run(["import", str(folder), "net"]) == 4
    assert "no file of its own" in capsys.readouterr().err
