"""The contract of whoever stores checkpoints one after the other, and those that write a file for each."""

from __future__ import annotations

import io
import shutil
from abc import ABC, abstractmethod
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from measure import make_durable
from storing_trajectory import Kind, Live

LEVEL = 3
"""Of zstd, where one has to be chosen."""


class Way(ABC):
    """Stores what is live now, again and again, below a folder of its own.

    Attributes
    ----------
    live : Live
        What is stored and restored; the trajectory overwrites it.
    oldest_holds : str
        How the names begin of the tensors that the oldest checkpoint still holds at the end.
    compacts : bool
        Whether `compact` does something.
    """

    oldest_holds = ""
    compacts = False

    def __init__(self, folder: Path, scratch: Path, kinds: list[Kind], live: Live) -> None:
        self.folder = folder
        self.scratch = scratch
        self.kinds = kinds
        self.live = live
        self.tensors = torch_tensors(kinds, live)

    @abstractmethod
    def save(self, number: int) -> None:
        """Store checkpoint ``number``, the next one; durable on return."""

    @abstractmethod
    def restore(self, number: int) -> None:
        """Bring it back into ``live``."""

    def compact(self) -> None:
        """Make smaller what is stored so far."""
        return

    def close(self) -> None:
        """Save no more."""
        return

    def take(self, tensors: Mapping[str, torch.Tensor]) -> None:
        for name, tensor in self.tensors.items():
            tensor.copy_(tensors[name])


def torch_tensors(kinds: list[Kind], live: Live) -> dict[str, torch.Tensor]:
    """The same memory, as tensors."""
    return {
        kind.name: torch.from_numpy(live[kind.name]).view(getattr(torch, kind.dtype)).reshape(kind.shape)
        for kind in kinds
    }


class TorchSave(Way):
    """``torch.save`` as it is."""

    def save(self, number: int) -> None:
        torch.save(self.tensors, self._file(number))
        make_durable(self._file(number))

    def restore(self, number: int) -> None:
        self.take(torch.load(self._file(number), weights_only=True))

    def _file(self, number: int) -> Path:
        return self.folder / f"{number}.pt"


class TorchSaveZstd(Way):
    """The same, compressed."""

    def save(self, number: int) -> None:
        from backports import zstd

        whole = io.BytesIO()
        torch.save(self.tensors, whole)
        self._file(number).write_bytes(zstd.compress(whole.getbuffer(), LEVEL))
        make_durable(self._file(number))

    def restore(self, number: int) -> None:
        from backports import zstd

        whole = io.BytesIO(zstd.decompress(self._file(number).read_bytes()))
        self.take(torch.load(whole, weights_only=True))

    def _file(self, number: int) -> Path:
        return self.folder / f"{number}.pt.zst"


class Dcp(Way):
    """``torch.distributed.checkpoint``, which fsyncs its files itself, but not their folder."""

    def save(self, number: int) -> None:
        import torch.distributed.checkpoint as dcp

        folder = self.folder / str(number)
        dcp.save(dict(self.tensors), storage_writer=dcp.FileSystemWriter(folder), no_dist=True)
        make_durable(folder)

    def restore(self, number: int) -> None:
        import torch.distributed.checkpoint as dcp

        reader = dcp.FileSystemReader(self.folder / str(number))
        dcp.load(dict(self.tensors), storage_reader=reader, no_dist=True)


class ZipNN(Way):
    """Each tensor by itself; what is no float as it is. One file for each checkpoint."""

    FLOATS = ("float32", "bfloat16")

    def save(self, number: int) -> None:
        with self._file(number).open("wb") as file:
            for kind in self.kinds:
                stored = self._encoded(kind)
                file.write(len(stored).to_bytes(8, "little") + stored)
        make_durable(self._file(number))

    def restore(self, number: int) -> None:
        with self._file(number).open("rb") as file:
            for kind in self.kinds:
                stored = file.read(int.from_bytes(file.read(8), "little"))
                self.live[kind.name][:] = np.frombuffer(self._decoded(kind, stored), np.uint8)

    def _encoded(self, kind: Kind) -> bytes:
        raw = bytearray(self.live[kind.name])  # a copy: it changes what it is given
        return _zipnn(kind).compress(raw) if kind.dtype in self.FLOATS else bytes(raw)

    def _decoded(self, kind: Kind, stored: bytes) -> bytes:
        return _zipnn(kind).decompress(stored) if kind.dtype in self.FLOATS else stored

    def _file(self, number: int) -> Path:
        return self.folder / f"{number}.znn"


def _zipnn(kind: Kind) -> Any:
    import zipnn

    return zipnn.ZipNN(bytearray_dtype=kind.dtype, input_format="byte")


def emptied(folder: Path) -> Path:
    """The folder, with nothing in it."""
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    return folder
