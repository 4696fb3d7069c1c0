"""What the events of a run come to, in numbers: a fold over the log, and the page of the live trainer."""

from __future__ import annotations

import os
import threading
from collections import deque
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

from holdfast.node.pulse import Seen
from holdfast.observe.following import Record
from holdfast.observe.series import Family, Series

PREFIX = "holdfast"
MOST_WAITING = 100
_SAVES = (0.01, 0.03, 0.1, 0.3, 1.0, 3.0, 10.0, 30.0, 100.0, 300.0)
_RECOVERIES = (0.3, 1.0, 3.0, 10.0, 30.0, 100.0, 300.0, 1000.0)
FAMILIES = (
    Family("step", "gauge", "Steps counted by the run."),
    Family("loss", "gauge", "The newest loss that was at hand without waiting for a device."),
    Family("reported", "gauge", "The newest value that the script has reported, by its name."),
    Family("running", "gauge", "1 while a launch is under way, else 0."),
    Family("launches_total", "counter", "Launches begun."),
    Family("restarts_total", "counter", "Launches that were followed by another, by the cause of their end."),
    Family("launches_without_progress", "gauge", "Launches in a row that got no further than before."),
    Family("lost_steps_total", "counter", "Steps that had to be made again."),
    Family(
        "recovery_duration_seconds",
        "histogram",
        "From a launch's end to the next one's first step.",
        _RECOVERIES,
    ),
    Family("findings_total", "counter", "What was found about the health of training, by kind."),
    Family("restore_duration_seconds", "histogram", "Reading and loading a recovery point.", _SAVES),
    Family("rejected_checkpoints_total", "counter", "Checkpoints that could not be used."),
    Family("saves_total", "counter", "Saves, by result: saved or failed."),
    Family("save_duration_seconds", "histogram", "From the safe point to the durable checkpoint.", _SAVES),
    Family("save_stall_seconds_total", "counter", "What training paid for saves."),
    Family("saved_bytes_total", "counter", "Bytes of tensors written to new packs."),
    Family("save_failures_in_a_row", "gauge", "Saves that failed since one succeeded."),
    Family("save_interval_seconds", "gauge", "Between the two newest checkpoints."),
    Family("last_checkpoint_timestamp_seconds", "gauge", "When the newest checkpoint became durable."),
    Family("last_checkpoint_step", "gauge", "The newest checkpoint's step."),
    Family("last_checkpoint_size_bytes", "gauge", "All its tensors."),
    Family("mirror_backlog_checkpoints", "gauge", "Checkpoints not known to be at the mirror."),
    Family("mirror_failures_in_a_row", "gauge", "Tries that failed since the mirror was reached."),
    Family("upload_duration_seconds", "histogram", "Bringing new checkpoints to a mirror.", _RECOVERIES),
    Family("repository_free_bytes", "gauge", "Room left where a local repository is."),
    Family("repository_size_bytes", "gauge", "All room where a local repository is."),
)


class Metrics:
    """Folds records into series."""

    def __init__(self) -> None:
        self._series = Series(PREFIX, FAMILIES)
        self._run: str | None = None
        self._waiting: deque[Record] = deque(maxlen=MOST_WAITING)
        self._location: str | None = None
        self._saved_at: float | None = None
        self._failures = self._in_vain = 0
        self._furthest = -1
        self._mirrors: set[str] = set()
        self._seen = Seen()
        self._lock = threading.Lock()
        self._takers: dict[str, Callable[[Record], None]] = {
            "started": self._started,
            "restored": self._restored,
            "rejected": lambda record: self._count("rejected_checkpoints_total"),
            "reported": self._reported,
            "found": lambda record: self._count("findings_total", kind=record["kind"]),
            "saved": self._saved,
            "save_failed": self._save_failed,
            "uploaded": self._uploaded,
            "upload_failed": self._upload_failed,
            "launched": self._launched,
            "launch_began": self._launch_began,
            "launch_ended": self._launch_ended,
            "recovered": self._recovered,
            "persisted": self._durable,
        }

    def take(self, record: Record) -> None:
        """Take one line of the log; what it does not have, or is of another kind, counts for nothing."""
        with self._lock:
            self._run = record.get("run") or self._run
            self._waiting.append(record)  # the first launch begins before its run is known
            while self._run is not None and self._waiting:
                self._fold(self._waiting.popleft())

    def _fold(self, record: Record) -> None:
        taker = self._takers.get(str(record.get("event")))
        if taker is not None:
            with suppress(AttributeError, KeyError, TypeError, ValueError):
                taker(record)

    def look(self, seen: Seen) -> None:
        """Take the page of the trainer as it is now."""
        self._seen = seen

    def text(self) -> str:
        """Everything, as Prometheus reads it."""
        with self._lock:
            seen = self._seen
            if seen.pid and self._run is not None:
                self._set("step", seen.step)
                self._set("loss", seen.loss)
            self._look_at_disk()
            return self._series.text()

    # -- kinds of records --------------------------------------------------------------

    def _launch_began(self, record: Record) -> None:
        self._seen = Seen()
        self._count("launches_total")
        self._set("running", 1)

    def _launch_ended(self, record: Record) -> None:
        self._set("running", 0)
        if record["restarts"]:
            self._count("restarts_total", cause=record["cause"])
        self._in_vain = self._in_vain + 1 if record["step"] <= self._furthest else 0
        self._furthest = max(self._furthest, record["step"])
        self._set("launches_without_progress", self._in_vain)
        self._count("lost_steps_total", record["lost_steps"] or 0)

    def _recovered(self, record: Record) -> None:
        self._series.observe("recovery_duration_seconds", record["seconds"], self._labels())

    def _launched(self, record: Record) -> None:
        self._location = record["location"]
        self._count("saves_total", 0, result="saved")
        self._count("saves_total", 0, result="failed")

    def _started(self, record: Record) -> None:
        self._set("step", 0)

    def _restored(self, record: Record) -> None:
        self._set("step", record["step"])
        self._series.observe("restore_duration_seconds", record["seconds"], self._labels())

    def _reported(self, record: Record) -> None:
        for name, value in record["metrics"].items():
            if isinstance(value, int | float):
                self._set("reported", value, name=name)

    def _saved(self, record: Record) -> None:
        self._failures = 0
        self._count("saves_total", result="saved")
        self._series.observe("save_duration_seconds", record["seconds"], self._labels())
        self._count("save_stall_seconds_total", record["burden_seconds"])
        self._count("saved_bytes_total", record["new_bytes"])
        self._set("save_failures_in_a_row", 0)
        if self._saved_at is not None:
            self._set("save_interval_seconds", record["time"] - self._saved_at)
        self._saved_at = record["time"]
        self._durable(record)
        for mirror in self._mirrors:
            self._count("mirror_backlog_checkpoints", mirror=mirror)

    def _durable(self, record: Record) -> None:
        """There is a checkpoint, even if the trainer does not live to know."""
        self._set("last_checkpoint_timestamp_seconds", record["time"])
        self._set("last_checkpoint_step", record["step"])
        self._set("last_checkpoint_size_bytes", record["size_bytes"])

    def _save_failed(self, record: Record) -> None:
        """Only the 1st, 2nd, 4th ... failure in a row is told of."""
        failures = record["failures"]
        self._count("saves_total", max(failures - self._failures, 1), result="failed")
        self._failures = failures
        self._set("save_failures_in_a_row", failures)

    def _uploaded(self, record: Record) -> None:
        self._mirror(record, failures=0)
        self._series.observe(
            "upload_duration_seconds", record["seconds"], self._labels(mirror=record["place"])
        )

    def _upload_failed(self, record: Record) -> None:
        self._mirror(record, failures=record["failures"])

    def _mirror(self, record: Record, failures: int) -> None:
        self._mirrors.add(record["place"])
        self._set("mirror_backlog_checkpoints", record["backlog"], mirror=record["place"])
        self._set("mirror_failures_in_a_row", failures, mirror=record["place"])

    # -- series ------------------------------------------------------------------------

    def _look_at_disk(self) -> None:
        if self._location is None or not Path(self._location).is_dir():
            return
        with suppress(OSError):
            room = os.statvfs(self._location)
            self._set("repository_free_bytes", room.f_bavail * room.f_frsize)
            self._set("repository_size_bytes", room.f_blocks * room.f_frsize)

    def _labels(self, **more: Any) -> dict[str, str]:
        return {"run": self._run or ""} | {name: str(value) for name, value in more.items()}

    def _count(self, metric: str, amount: float = 1, **labels: Any) -> None:
        self._series.add(metric, amount, self._labels(**labels))

    def _set(self, metric: str, value: float | None, **labels: Any) -> None:
        self._series.set(metric, value, self._labels(**labels))
