"""PyTorch's SummaryWriter, writing to an `EventLog`."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from torch.utils.tensorboard import SummaryWriter
from torch.utils.tensorboard.writer import FileWriter

if TYPE_CHECKING:
    from holdfast.integrations.tensorboard import EventLog


class _Events(FileWriter):
    """Gives what it is given to a log."""

    def __init__(self, log: EventLog) -> None:  # no file of its own, no thread
        self.event_writer = _Sink(log)


class _Sink:
    def __init__(self, log: EventLog) -> None:
        self._log = log
        self.add_event = log.add_event
        self.flush = log.flush
        self.close = log.close

    def get_logdir(self) -> str:
        return str(self._log.folder)

    def reopen(self) -> None:
        """The next event opens a file."""


class _Writer(SummaryWriter):
    def __init__(self, log: EventLog) -> None:
        self._events = _Events(log)
        super().__init__(str(log.folder))

    def _get_file_writer(self) -> Any:
        vars(self).update(file_writer=self._events, all_writers={self.log_dir: self._events})
        return self._events


def writer_to(log: EventLog) -> SummaryWriter:
    """All of SummaryWriter's methods, for one log."""
    return _Writer(log)
