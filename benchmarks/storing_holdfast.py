"""Holdfast: as it lands, compacted now and then, and with older checkpoints thinned as well."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import torch
from storing_trajectory import Kind, Live
from storing_way import Way
from torch import nn

import holdfast

RUN = "main"
MODEL = "model/"


class Holdfast(Way):
    """Raw chunks, of which none is stored twice."""

    keep = "all"

    def __init__(self, folder: Path, scratch: Path, kinds: list[Kind], live: Live) -> None:
        super().__init__(folder, scratch, kinds, live)
        self._state = training_state(self.tensors)
        self._checkpointer = holdfast.Checkpointer(
            folder, self._state, run=RUN, save=None, keep=self.keep, signals=False, background=False
        )
        self._checkpointer.__enter__()

    def save(self, number: int) -> None:
        self._checkpointer.step()
        self._checkpointer.save().wait_durable()

    def close(self) -> None:
        self._checkpointer.__exit__(None, None, None)

    def restore(self, number: int) -> None:
        holdfast.load(self.folder, into=self._state, run=RUN, at=number)


class Compacted(Holdfast):
    """The same, with ``holdfast compact`` some times, also beside the live run."""

    compacts = True

    def compact(self) -> None:
        command = [sys.executable, "-m", "holdfast", "compact", "--json", "--repository", str(self.folder)]
        subprocess.run(command, check=True, stdout=subprocess.DEVNULL, env=os.environ)


class Thinned(Compacted):
    """All but the newest three become thin: every checkpoint is still there, as a model."""

    keep = "last 3, then thin"
    oldest_holds = MODEL

    def restore(self, number: int) -> None:
        thin = holdfast.open(self.folder)[RUN][number].kind == "thin"
        only = "model" if thin else None
        holdfast.load(self.folder, into=self._state, run=RUN, at=number, only=only)


def training_state(tensors: dict[str, torch.Tensor]) -> dict[str, Any]:
    """What a training script would hand over: a module, and the rest as it is."""
    model = {n.removeprefix(MODEL): t for n, t in tensors.items() if n.startswith(MODEL)}
    rest = {name: tensor for name, tensor in tensors.items() if not name.startswith(MODEL)}
    return {"model": _module(model), "rest": rest}


def _module(tensors: dict[str, torch.Tensor]) -> nn.Module:
    """A module whose state dict these are; it has their memory."""
    whole = nn.Module()
    for name, tensor in tensors.items():
        path, _, leaf = name.rpartition(".")
        owner = _made(whole, path)
        if tensor.is_floating_point():
            owner.register_parameter(leaf, nn.Parameter(tensor, requires_grad=False))
        else:
            owner.register_buffer(leaf, tensor)
    return whole


def _made(whole: nn.Module, path: str) -> nn.Module:
    """The submodule at a path, and those above it, made where they are missing."""
    owner = whole
    for part in path.split(".") if path else ():
        if part not in owner._modules:
            owner.add_module(part, nn.Module())
        owner = owner.get_submodule(part)
    return owner
