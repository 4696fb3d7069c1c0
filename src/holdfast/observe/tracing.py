"""Spans, made from lines of the log: what a save and a recovery consisted of, across processes.

Ids follow from what a line says: lines of several processes meet in one trace, though none knew of it.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator
from typing import Any

import msgspec

from holdfast.observe.following import Record


class Span(msgspec.Struct, frozen=True, kw_only=True):
    """One stretch of time in one process.

    Attributes
    ----------
    trace, id, parent : str
        In hexadecimal; no parent: empty.
    process : str
        ``trainer``, ``agent`` or ``supervisor``.
    began_seconds, ended_seconds : float
        Since 1970.
    """

    trace: str
    id: str
    parent: str = ""
    name: str
    process: str
    began_seconds: float
    ended_seconds: float
    attributes: dict[str, Any]
    failed: bool = False


class Tracing:
    """Turns lines of the log into spans, as soon as all is known that they need."""

    def __init__(self) -> None:
        self._ended: Record | None = None
        self._began: Record | None = None
        self._restored: Record | None = None
        self._makers: dict[str, Callable[[Record], Iterator[Span]]] = {
            "saved": self._saved,
            "save_failed": self._save_failed,
            "persisted": self._persisted,
            "uploaded": self._uploaded,
            "launch_began": self._launch_began,
            "launch_ended": self._launch_ended,
            "restored": self._restored_state,
            "recovered": self._recovered,
        }

    def take(self, record: Record) -> list[Span]:
        """The spans that are complete with this line; of what it does not have there are none."""
        maker = self._makers.get(str(record.get("event")))
        try:
            return list(maker(record)) if maker is not None else []
        except (KeyError, TypeError, ValueError):
            return []

    # -- a save ------------------------------------------------------------------------

    def _saved(self, record: Record) -> Iterator[Span]:
        key, began = record["checkpoint"], record["time"] - record["seconds"]
        attributes = _of(record, "step", "reason", "size_bytes", "new_bytes", "checkpoint")
        yield _span(record, key, "save", "", began, record["time"], attributes)
        stalled = min(began + record["burden_seconds"], record["time"])
        yield _span(record, key, "stall", "save", began, stalled, {})

    def _persisted(self, record: Record) -> Iterator[Span]:
        began = record["time"] - record["seconds"]
        attributes = _of(record, "step", "size_bytes", "new_bytes", "checkpoint")
        yield _span(record, record["checkpoint"], "persist", "save", began, record["time"], attributes)

    def _save_failed(self, record: Record) -> Iterator[Span]:
        key = f"failed {record['time']}"
        attributes = _of(record, "step", "reason", "failures")
        yield _span(record, key, "save", "", record["time"], record["time"], attributes, failed=True)

    def _uploaded(self, record: Record) -> Iterator[Span]:
        key, began = f"{record['place']} {record['time']}", record["time"] - record["seconds"]
        attributes = _of(record, "place", "checkpoints", "backlog")
        yield _span(record, key, "upload", "", began, record["time"], attributes)

    # -- a recovery --------------------------------------------------------------------

    def _launch_ended(self, record: Record) -> Iterator[Span]:
        self._ended = record if record["restarts"] else None
        self._began = self._restored = None
        yield from ()

    def _launch_began(self, record: Record) -> Iterator[Span]:
        self._began, self._restored = record, None
        yield from ()

    def _restored_state(self, record: Record) -> Iterator[Span]:
        self._restored = record
        yield from ()

    def _recovered(self, record: Record) -> Iterator[Span]:
        """From the end of a launch to the next one's first step, and what lay between."""
        ended, began, restored = self._ended, self._began, self._restored
        if ended is None or began is None:
            return
        key, first_step = f"launch {record['launch']}", ended["time"] + record["seconds"]
        attributes = _of(ended, "cause", "detail", "exit_code") | _of(record, "launch", "step")
        yield _span(record, key, "recovery", "", ended["time"], first_step, attributes)
        yield _span(began, key, "wait", "recovery", ended["time"], began["time"], {})
        if restored is None:
            return
        reading = max(restored["time"] - restored["seconds"], began["time"])
        yield _span(restored, key, "start", "recovery", began["time"], reading, {})
        found = _of(restored, "step", "place")
        yield _span(restored, key, "restore", "recovery", reading, restored["time"], found)
        yield _span(restored, key, "first step", "recovery", restored["time"], first_step, {})


def _span(
    record: Record,
    key: str,
    name: str,
    parent: str,
    began_seconds: float,
    ended_seconds: float,
    attributes: dict[str, Any],
    *,
    failed: bool = False,
) -> Span:
    trace = _digest(f"{record['trace']} {key}", 16)
    known = _of(record, "run", "attempt", "host", "pid")
    return Span(
        trace=trace,
        id=_digest(f"{trace} {name}", 8),
        parent=_digest(f"{trace} {parent}", 8) if parent else "",
        name=name,
        process=record["process"],
        began_seconds=began_seconds,
        ended_seconds=max(began_seconds, ended_seconds),
        attributes=known | attributes,
        failed=failed,
    )


def _of(record: Record, *names: str) -> dict[str, Any]:
    return {name: record[name] for name in names if record.get(name) is not None}


def _digest(text: str, size_bytes: int) -> str:
    return hashlib.blake2b(text.encode(), digest_size=size_bytes).hexdigest()
