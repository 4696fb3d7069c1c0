"""How a training loop can save: each way as a context around some steps.

A way is told before each optimizer step and after it. What it does in there holds up training.
"""

from __future__ import annotations

import os
import threading
import time
from concurrent.futures import Future
from contextlib import AbstractContextManager
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import torch
import torch.distributed as dist
import torch.distributed.checkpoint as dcp
from measure import make_durable
from torch.distributed.checkpoint import FileSystemWriter
from torch.distributed.checkpoint.staging import DefaultStager, StagingOptions
from torch.distributed.checkpoint.state_dict_saver import AsyncCheckpointerType, AsyncSaveResponse
from training_model import Trainer

import holdfast

KEPT = 2
"""Checkpoints that each way keeps."""


class Way(AbstractContextManager["Way"]):
    """Saves nothing.

    Attributes
    ----------
    durable_seconds : list of float
        From the beginning of each save to its durability.
    """

    def __init__(self, trainer: Trainer, folder: Path) -> None:
        self.trainer = trainer
        self.folder = folder
        self.durable_seconds: list[float] = []

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        return None

    def before_step(self) -> None:
        """The optimizer is about to change what may still be being copied."""

    def after_step(self, *, due: bool) -> None:
        """A place to save: ``due`` says that it is time."""

    def finish(self) -> None:
        """Wait until every save is durable."""


class Holdfast(Way):
    """A Checkpointer without its loops."""

    background = False

    def __enter__(self) -> Self:
        self._open: list[tuple[float, holdfast.Save]] = []
        self._checkpointer = holdfast.Checkpointer(
            self.folder,
            self.trainer.state,
            save=None,
            keep=f"last {KEPT}",
            signals=False,
            background=self.background,
        )
        self._checkpointer.__enter__()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._checkpointer.__exit__(kind, error, trace)

    def after_step(self, *, due: bool) -> None:
        self._checkpointer.step()
        if due:
            self._save()
        self._learn()

    def _save(self) -> None:
        started = time.perf_counter()
        self._checkpointer.save().wait_durable()
        self.durable_seconds.append(time.perf_counter() - started)

    def _learn(self) -> None:
        """Look at what became of earlier saves."""


class HoldfastBackground(Holdfast):
    background = True

    def _save(self) -> None:
        begun = time.time()
        self._open.append((begun, self._checkpointer.save()))

    def finish(self) -> None:
        for _, save in self._open:
            save.wait_durable()
        self._learn()

    def _learn(self) -> None:
        """The trainer hears of a save at a later step; when it was made durable is read from its manifest."""
        for begun, save in [pair for pair in self._open if pair[1].done]:
            self._open.remove((begun, save))
            manifest = f"runs/main/checkpoints/{save.wait_durable()}.manifest"
            self.durable_seconds.append((self.folder / manifest).stat().st_ctime - begun)


class TorchSave(Way):
    """What careful scripts do: a temporary file, fsync, rename, fsync of the folder."""

    def after_step(self, *, due: bool) -> None:
        if due:
            started = time.perf_counter()
            self._save(self.folder / f"{len(self.durable_seconds) % KEPT}.pt")
            self.durable_seconds.append(time.perf_counter() - started)

    def _save(self, path: Path) -> None:
        path.parent.mkdir(exist_ok=True)
        draft = path.with_suffix(".draft")
        torch.save(self.trainer.state_dicts(), draft)
        with draft.open("rb") as written:
            os.fsync(written.fileno())
        draft.replace(path)
        make_durable(path.parent)


class Dcp(Way):
    """torch.distributed.checkpoint, which fsyncs its files itself."""

    def after_step(self, *, due: bool) -> None:
        if due:
            started = time.perf_counter()
            path = self.folder / str(len(self.durable_seconds) % KEPT)
            dcp.save(self.trainer.state_dicts(), storage_writer=FileSystemWriter(path), no_dist=True)
            self.durable_seconds.append(time.perf_counter() - started)


class DcpAsync(Way):
    """async_save in a thread; its stager is kept, so that its memory is used again."""

    kind = AsyncCheckpointerType.THREAD
    staged_behind = False

    def __enter__(self) -> Self:
        shared = self.kind == AsyncCheckpointerType.PROCESS
        if shared:
            _form_group_of_one()
        self._stager = DefaultStager(StagingOptions(False, shared, self.staged_behind, False))
        self._upload: Future[Any] | None = None
        self._staging: Future[Any] | None = None
        self._noted = threading.Event()
        self._saves = 0
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._stager.close()

    def before_step(self) -> None:
        if self._staging is not None:
            self._staging.result()
            self._staging = None

    def after_step(self, *, due: bool) -> None:
        if due:
            started = time.perf_counter()
            self.finish()  # the one before: its staged copy is used again
            self._begin(self.folder / str(self._saves % KEPT), started)
            self._saves += 1

    def finish(self) -> None:
        if self._upload is not None:
            self._upload.result()
            self._noted.wait()
            self._upload = None

    def _begin(self, path: Path, started: float) -> None:
        begun = dcp.async_save(
            self.trainer.state_dicts(),
            storage_writer=FileSystemWriter(path),
            async_checkpointer_type=self.kind,
            async_stager=self._stager,
            no_dist=self.kind == AsyncCheckpointerType.THREAD,
        )
        if isinstance(begun, AsyncSaveResponse):
            self._staging, self._upload = begun.staging_completion, begun.upload_completion
        else:
            self._upload = begun
        self._noted.clear()
        self._upload.add_done_callback(lambda _: self._note(started))

    def _note(self, started: float) -> None:
        """In the thread that saves."""
        self.durable_seconds.append(time.perf_counter() - started)
        self._noted.set()


class DcpAsyncBehind(DcpAsync):
    """The same, staged by a thread behind forward and backward; the next step waits for it."""

    staged_behind = True


class DcpAsyncProcess(DcpAsync):
    kind = AsyncCheckpointerType.PROCESS


def _form_group_of_one() -> None:
    os.environ["MASTER_ADDR"] = "127.0.0.1"  # for the process that async_save starts
    if not dist.is_initialized():
        dist.init_process_group("gloo", store=dist.HashStore(), rank=0, world_size=1)


WAYS: dict[str, type[Way]] = {
    "no saving": Way,
    "holdfast, background": HoldfastBackground,
    "holdfast, blocking": Holdfast,
    "torch.save, fsync": TorchSave,
    "DCP save": Dcp,
    "DCP async_save, thread": DcpAsync,
    "DCP async_save, behind": DcpAsyncBehind,
    "DCP async_save, process": DcpAsyncProcess,
}
