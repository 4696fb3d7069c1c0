"""TensorBoard event files that go on where a run goes on: no step twice, none missing.

An `EventLog` is part of the training state. What it has written is durable before a checkpoint is; a
restore begins another file that tells TensorBoard, by its own means (``SessionLog.START`` at a step), to
forget what came after that checkpoint.
"""

from __future__ import annotations

import io
import os
import re
import socket
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

from holdfast.errors import UsageError
from holdfast.storage.faults import told_plainly

if TYPE_CHECKING:
    from tensorboard.compat.proto.event_pb2 import Event

FLUSH_SECONDS = 10.0
FLUSH_BYTES = 1 << 20
_PREFIX = "events.out.tfevents."
_NAME = re.compile(re.escape(_PREFIX) + r"([0-9]{10})\..*")


class EventLog:
    """Writes events to a folder; give it a place in the training state.

    All events of a log count by the same steps, in ascending order, and are written while its Checkpointer is
    entered.

    Parameters
    ----------
    folder : str or path
        Created with the first event.

    Raises
    ------
    UsageError
        TensorBoard is not installed.
    """

    def __init__(self, folder: str | os.PathLike[str]) -> None:
        try:
            import tensorboard.compat.proto.event_pb2  # noqa: F401  # refused here rather than in the loop
        except ImportError as error:
            raise UsageError(
                "TensorBoard is not installed here.", do="Install it: pip install tensorboard."
            ) from error
        self.folder = Path(folder)
        self._path: Path | None = None
        self._waiting = io.BytesIO()
        self._flushed_at = 0.0
        self._is_loaded = self._is_settled = False
        self._step: int | None = None
        self._newest: list[bytes] = []

    # -- writing -----------------------------------------------------------------------

    def add_scalar(self, tag: str, value: float, step: int) -> None:
        """Write one number."""
        from tensorboard.compat.proto.event_pb2 import Event
        from tensorboard.compat.proto.summary_pb2 import Summary

        summary = Summary(value=[Summary.Value(tag=tag, simple_value=float(value))])
        self.add_event(Event(wall_time=time.time(), step=int(step), summary=summary))

    def add_event(self, event: Event) -> None:
        """Write any event of TensorBoard's."""
        data = event.SerializeToString()
        self._opened()
        self._note(event.step, data)
        self._write(data)
        is_much = self._waiting.tell() > FLUSH_BYTES
        if is_much or time.monotonic() - self._flushed_at > FLUSH_SECONDS:
            self.flush()

    def _note(self, step: int, data: bytes) -> None:
        """Keep the events of the newest step: a restore there writes them anew."""
        if self._step is None or step > self._step:
            self._step, self._newest = step, []
        if step == self._step:
            self._newest.append(data)

    def flush(self) -> None:
        """Let readers see what was written."""
        if self._path is None:
            return
        with told_plainly(f"writing {self._path.name}", str(self.folder)), self._path.open("ab") as file:
            file.write(self._waiting.getvalue())
        self._waiting = io.BytesIO()
        self._flushed_at = time.monotonic()

    def close(self) -> None:
        """Make it durable; another event begins another file."""
        self._settle()
        self._path = None

    def summary_writer(self) -> Any:
        """A ``torch.utils.tensorboard.SummaryWriter`` that writes here, with all its methods."""
        from holdfast.integrations.tensorboard_torch import writer_to

        return writer_to(self)

    # -- as part of the training state -------------------------------------------------

    def state_dict(self) -> dict[str, Any]:
        """Make durable what was written, and tell the newest step with its events."""
        self._settle()
        file = self._path.name if self._path is not None else None
        return {"step": self._step, "events": list(self._newest), "file": file}

    def load_state_dict(self, saved: dict[str, Any]) -> None:
        """Go on after the step of a checkpoint: what came later is forgotten."""
        begun = self._path
        self.close()
        if begun is not None and not self._is_loaded and saved["file"] != begun.name:
            begun.unlink()  # written before the run was restored, so not by the run
        self._step, self._newest = saved["step"], list(saved["events"])
        self._opened()
        self._is_loaded = True
        self._settle()

    # -- the file ----------------------------------------------------------------------

    def _opened(self) -> None:
        """Begin a file that sorts behind all others and makes readers forget later events."""
        if self._path is not None:
            return
        with told_plainly("making an event file", str(self.folder)):
            self.folder.mkdir(parents=True, exist_ok=True)
            named = (_NAME.fullmatch(path.name) for path in self.folder.iterdir())
            newest = max((int(found[1]) for found in named if found is not None), default=0)
            second = max(int(time.time()), newest + 1)
            path = self.folder / f"{_PREFIX}{second:010d}.{socket.gethostname()}.{os.getpid()}"
            path.touch(exist_ok=False)
        self._path, self._is_loaded = path, False
        self._begin()

    def _begin(self) -> None:
        from tensorboard.compat.proto.event_pb2 import Event, SessionLog

        step, now = self._step or 0, time.time()
        start = SessionLog(status=SessionLog.START)
        self._write(Event(wall_time=now, step=step, file_version="brain.Event:2").SerializeToString())
        self._write(Event(wall_time=now, step=step, session_log=start).SerializeToString())
        for data in self._newest:
            self._write(data)

    def _write(self, data: bytes) -> None:
        from tensorboard.summary.writer.record_writer import RecordWriter

        RecordWriter(self._waiting).write(data)
        self._is_settled = False

    def _settle(self) -> None:
        if self._path is None or self._is_settled:
            return
        self.flush()
        with told_plainly(f"syncing {self._path.name}", str(self.folder)):
            for path in (self._path, self.folder):
                _sync(path)
        self._is_settled = True


def _sync(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
