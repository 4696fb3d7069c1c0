"""A PyTorch AdamW training state, and who saves it."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
import torch.distributed.checkpoint as dcp
from blake3 import blake3
from contenders import Contender, Subject, holdfast_contender
from safetensors.torch import load_file, save_file
from sizes import Sizes
from torch import nn
from torch.distributed.checkpoint import FileSystemReader, FileSystemWriter


def build(sizes: Sizes) -> tuple[nn.Module, torch.optim.AdamW]:
    """A model that has taken one AdamW step, so that its optimizer's state is there."""
    torch.set_num_threads(1)
    torch.manual_seed(0)
    width, small = sizes.width, sizes.small_width
    block = nn.TransformerEncoderLayer(width, width // 64, 4 * width, batch_first=True)
    model = nn.ModuleDict(
        {
            "tokens": nn.Embedding(sizes.vocabulary, width),
            "positions": nn.Embedding(sizes.positions, width),
            "blocks": nn.TransformerEncoder(block, sizes.layers, enable_nested_tensor=False),
            "tower": nn.Sequential(
                *(
                    nn.Sequential(nn.Conv1d(small, small, 1), nn.BatchNorm1d(small))
                    for _ in range(sizes.small_blocks)
                )
            ),
        }
    )
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-3)
    for parameter in model.parameters():
        parameter.grad = torch.randn_like(parameter)
    optimizer.step()
    optimizer.zero_grad(set_to_none=True)
    return model, optimizer


def subject(sizes: Sizes) -> Subject:
    model, optimizer = build(sizes)

    def tensors() -> Iterator[torch.Tensor]:
        yield from model.state_dict().values()
        for state in optimizer.state.values():
            yield from state.values()

    def fingerprint() -> str:
        digest = blake3()
        for tensor in tensors():
            digest.update(tensor.detach().reshape(-1).view(torch.uint8).numpy())
        return digest.hexdigest()

    def scramble() -> None:
        with torch.no_grad():
            for tensor in tensors():
                tensor.zero_()

    return Subject(
        size_bytes=sum(t.nbytes for t in tensors()),
        tensors=sum(1 for _ in tensors()),
        fingerprint=fingerprint,
        scramble=scramble,
        contenders=[
            holdfast_contender({"model": model, "optimizer": optimizer}),
            _torch_save(model, optimizer),
            _safetensors(model, optimizer),
            _dcp(model, optimizer),
        ],
    )


def _torch_save(model: nn.Module, optimizer: torch.optim.Optimizer) -> Contender:
    def save(path: Path) -> bool:
        torch.save({"model": model.state_dict(), "optimizer": optimizer.state_dict()}, path)
        return False

    def load(path: Path) -> None:
        saved = torch.load(path, weights_only=True)
        model.load_state_dict(saved["model"])
        optimizer.load_state_dict(saved["optimizer"])

    return Contender("torch.save", save, load)


def _safetensors(model: nn.Module, optimizer: torch.optim.Optimizer) -> Contender:
    def flat() -> dict[str, torch.Tensor]:
        state = {f"model.{name}": tensor for name, tensor in model.state_dict().items()}
        for number, entry in optimizer.state_dict()["state"].items():
            state.update({f"optimizer.{number}.{name}": tensor for name, tensor in entry.items()})
        return state

    def save(path: Path) -> bool:
        save_file(flat(), path)
        return False

    def load(path: Path) -> None:
        saved = load_file(path)
        with torch.no_grad():
            for name, tensor in flat().items():
                tensor.copy_(saved[name])

    return Contender("safetensors", save, load)


def _dcp(model: nn.Module, optimizer: torch.optim.Optimizer) -> Contender:
    def state() -> dict[str, Any]:
        return {"model": model.state_dict(), "optimizer": optimizer.state_dict()}

    def save(path: Path) -> bool:
        writer = FileSystemWriter(path, sync_files=True)  # its default: it fsyncs its files itself
        dcp.save(state(), storage_writer=writer, no_dist=True)
        return True

    def load(path: Path) -> None:
        saved = state()
        dcp.load(saved, storage_reader=FileSystemReader(path), no_dist=True)
        optimizer.load_state_dict(saved["optimizer"])

    return Contender("torch.distributed.checkpoint", save, load)
