"""Run a training function in a process of its own, kill it at any line, compare what it leaves."""

from __future__ import annotations

import contextlib
import io
import os
import signal
import sys
import traceback
from collections.abc import Callable
from pathlib import Path
from types import FrameType
from typing import Any

import holdfast

Script = Callable[[Path], None]


def in_child(action: Callable[[], None]) -> int:
    """Fork, run, and return the wait status; the child's last words come out if it fails."""
    sys.stdout.flush()
    sys.stderr.flush()
    child = os.fork()
    if child == 0:
        said = io.StringIO()
        status = 1
        try:
            with contextlib.redirect_stderr(said), contextlib.redirect_stdout(said):
                action()
            status = 0
        except SystemExit as leaving:
            status = leaving.code if isinstance(leaving.code, int) else 1
        except KeyboardInterrupt:
            status = 130
        except BaseException:
            os.write(2, (said.getvalue() + traceback.format_exc()).encode())
        finally:
            os._exit(status)
    return os.waitpid(child, 0)[1]


def run(
    script: Script, repository: Path, *, signal_at: int | None = None, number: int = signal.SIGKILL
) -> int:
    """Run ``script(repository)`` in a child; at its ``signal_at``-th line, send it a signal."""
    return in_child(lambda: _traced(script, repository, signal_at, number))


def lines_of(script: Script, repository: Path) -> int:
    """How many lines the script executes when nothing interrupts it."""
    read, write = os.pipe()

    def count() -> None:
        os.write(write, str(_traced(script, repository, None, 0)).encode())

    assert in_child(count) == 0
    os.close(write)
    with os.fdopen(read) as answer:
        return int(answer.read())


def _traced(script: Script, repository: Path, signal_at: int | None, number: int) -> int:
    lines = 0
    code = getattr(script, "func", script).__code__  # of a partial, that of its function

    def trace(frame: FrameType, event: str, arg: Any) -> Any:
        nonlocal lines
        if frame.f_code is not code:
            return None
        if event == "line":
            lines += 1
            if lines == signal_at:
                os.kill(os.getpid(), number)
        return trace

    sys.settrace(trace)
    try:
        script(repository)
    finally:
        sys.settrace(None)
    return lines


def left_behind(repository: Path, run_name: str = "main") -> dict[str, Any]:
    """Everything of the newest checkpoint that decides what training does next, digests for tensors."""
    checkpoint = holdfast.open(repository)[run_name].latest
    manifest = checkpoint.manifest()
    return {
        "step": checkpoint.step,
        "tensors": {name: entry.shards[0].chunks for name, entry in manifest.tensors.items()},
        "tree": manifest.details.tree,
        "metrics": manifest.summary.metrics,
        "progress": manifest.summary.progress,
    }
