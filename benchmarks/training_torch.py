"""PyTorch, trained step by step, and who saves it."""

from __future__ import annotations

import os
import threading
import time
from concurrent.futures import Future
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import torch
import torch.distributed as dist
import torch.distributed.checkpoint as dcp
from measure import make_durable
from sizes import Shape
from torch.distributed.checkpoint import FileSystemWriter
from torch.distributed.checkpoint.staging import DefaultStager, StagingOptions
from torch.distributed.checkpoint.state_dict_saver import AsyncCheckpointerType, AsyncSaveResponse
from training_figures import BASELINE
from training_model import Trainer
from training_steps import Driven
from training_way import KEPT, Blocking, Holdfast, HoldfastBackground, Way


class TorchSave(Blocking):
    """What careful scripts do: a temporary file, fsync, rename, fsync of the folder."""

    def _save(self, path: Path) -> None:
        path.parent.mkdir(exist_ok=True)
        draft = path.with_suffix(".draft")
        torch.save(self.trainer.state_dicts(), draft)
        with draft.open("rb") as written:
            os.fsync(written.fileno())
        draft.replace(path)
        make_durable(path.parent)


class Dcp(Blocking):
    """torch.distributed.checkpoint, which fsyncs its files itself."""

    def _save(self, path: Path) -> None:
        dcp.save(self.trainer.state_dicts(), storage_writer=FileSystemWriter(path), no_dist=True)


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
    BASELINE: Way,
    "holdfast, background": HoldfastBackground,
    "holdfast, blocking": Holdfast,
    "torch.save, fsync": TorchSave,
    "DCP save": Dcp,
    "DCP async_save, thread": DcpAsync,
    "DCP async_save, behind": DcpAsyncBehind,
    "DCP async_save, process": DcpAsyncProcess,
}


def subject(shape: Shape) -> Driven:
    return Driven(Trainer(shape), WAYS)
