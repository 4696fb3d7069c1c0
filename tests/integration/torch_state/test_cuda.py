"""Tensors on a CUDA device, saved in the background: run where there is one."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch

import holdfast
from holdfast.domain.tensors import DeviceCopy
from holdfast.node.arena import Slot
from holdfast.training import fencing

pytestmark = pytest.mark.skipif(not torch.cuda.is_available(), reason="there is no CUDA device")
SHAPES = [(300, 301), (5,), (), (0, 3), (64, 1024)]
DTYPES = [torch.float32, torch.bfloat16, torch.float64, torch.int64, torch.bool, torch.complex64]


@pytest.fixture
def slot() -> Iterator[Slot]:
    made = Slot.create(64 << 20)
    yield made
    made.close()


def many() -> list[torch.Tensor]:
    found = [torch.randn(s, device="cuda").mul(9).to(d) for s in SHAPES for d in DTYPES]
    return [*found, torch.randn(100, 200, device="cuda").t(), torch.randn(9, 9, device="cuda")[::2]]


@pytest.mark.parametrize("limit_bytes", [None, 0])
@pytest.mark.parametrize("held", [False, True])
def test_what_is_copied_is_what_it_was(slot: Slot, held: bool, limit_bytes: int | None) -> None:
    from holdfast.frameworks.torch.cuda import CudaSource
    from holdfast.frameworks.torch.tensors import source

    tensors = many()
    expected = [t.cpu().contiguous().reshape(-1).view(torch.uint8).numpy().tobytes() for t in tensors]
    copies, end = [], 0
    for tensor in tensors:
        found, device = source(tensor, "x")
        assert isinstance(found, CudaSource)
        assert device == "cuda"
        copies.append(DeviceCopy(found, slot.memory[end : end + found.spec.size_bytes], held))
        end += found.spec.size_bytes
    wait = CudaSource.begin(copies, slot.memory, limit_bytes)
    if not held:
        for tensor in tensors:
            tensor.zero_()  # in the order of the device's work: after the copy
    wait()
    assert [copy.target.tobytes() for copy in copies] == expected


@pytest.mark.parametrize("checked", [0, 2])
def test_each_checkpoint_is_of_its_step(
    checked: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HOLDFAST_BACKGROUND", "1")
    monkeypatch.setattr(fencing, "CHECKED_SAVES", checked)
    torch.manual_seed(0)
    model = torch.nn.Sequential(torch.nn.Linear(512, 512), torch.nn.BatchNorm1d(512)).cuda()
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-2)
    state: dict[str, Any] = {"model": model, "optimizer": optimizer}
    were = []
    with holdfast.Checkpointer(tmp_path, state, save="every 1 step", keep="all") as ckpt:
        for _ in ckpt.steps(8):
            model(torch.randn(32, 512, device="cuda")).square().mean().backward()
            optimizer.step()
            optimizer.zero_grad()
            were.append({name: t.cpu().clone() for name, t in model.state_dict().items()})
    for checkpoint, expected in zip(holdfast.open(tmp_path)["main"], were, strict=True):
        loaded = checkpoint.load(only="model")["model"]
        assert all(torch.equal(loaded[name].cpu(), value) for name, value in expected.items())
