"""Reading the log of events while others write it."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import IO, Any

Record = dict[str, Any]
"""One line of the log."""
LONGEST_LINE_BYTES = 1 << 20


class Following:
    """Follows a log from its present end on.

    Parameters
    ----------
    place : Path
        A file, there or not, or a folder of them.
    trace : str
        Only what was written below this supervisor counts.
    """

    def __init__(self, place: Path, trace: str) -> None:
        self._place = place
        self._trace = trace
        self._open: dict[Path, IO[bytes]] = {}
        for path in self._paths():
            if (file := _opened(path)) is not None:
                file.seek(0, os.SEEK_END)
                self._open[path] = file

    def new(self) -> Iterator[Record]:
        """What has come since the last time."""
        for path in self._paths():
            yield from self._rest(path)
            if self._is_replaced(path) and (file := _opened(path)) is not None:
                if (before := self._open.get(path)) is not None:
                    before.close()
                self._open[path] = file
                yield from self._rest(path)

    def close(self) -> None:
        for file in self._open.values():
            file.close()

    def _paths(self) -> list[Path]:
        return sorted(self._place.glob("*.jsonl")) if self._place.is_dir() else [self._place]

    def _is_replaced(self, path: Path) -> bool:
        """Whether another file has taken its place, or it has just come."""
        file = self._open.get(path)
        with suppress(OSError):
            return file is None or not os.path.samestat(path.stat(), os.fstat(file.fileno()))
        return False

    def _rest(self, path: Path) -> Iterator[Record]:
        file = self._open.get(path)
        while file is not None:
            at = file.tell()
            data = file.readline(LONGEST_LINE_BYTES)
            if not data.endswith(b"\n") and len(data) < LONGEST_LINE_BYTES:
                file.seek(at)  # nothing, or a line that is being written
                return
            record = parsed(data)
            if record.get("trace") == self._trace:
                yield record


def parsed(data: bytes) -> Record:
    """A line of the log; empty if it is none."""
    with suppress(ValueError, RecursionError):
        record = json.loads(data)
        return record if isinstance(record, dict) else {}
    return {}


def _opened(path: Path) -> IO[bytes] | None:
    with suppress(OSError):
        return path.open("rb")
    return None
