"""What people and programs see: lines, progress bars, JSON, errors."""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import IO, TYPE_CHECKING, Any

from holdfast.cli.text import clean

if TYPE_CHECKING:
    from rich.console import Console

    from holdfast.errors import HoldfastError

_WIDE = 1000


def console(stream: IO[str] | None = None) -> Console:
    """A terminal that prints what it is given: no markup, no colour but for a TTY without NO_COLOR.

    What goes to a file or pipe is not folded at 80 columns.
    """
    from rich.console import Console

    stream = stream or sys.stdout
    wide = None if stream.isatty() or os.environ.get("COLUMNS") else _WIDE
    return Console(file=stream, markup=False, highlight=False, emoji=False, width=wide)


def say(text: str) -> None:
    """Print a line for people."""
    print(clean(text))


def note(text: str) -> None:
    """Print a line for people to standard error, out of the way of what is piped on."""
    print(clean(text), file=sys.stderr)


def print_json(value: Any) -> None:
    """Print one JSON document; numbers that are not finite become null."""
    import msgspec

    text = msgspec.json.format(msgspec.json.encode(value, enc_hook=_encodable), indent=2).decode()
    print(text if _is_utf8(sys.stdout) else json.dumps(json.loads(text), indent=2))


def _is_utf8(stream: IO[str]) -> bool:
    return (getattr(stream, "encoding", None) or "").lower().replace("-", "") == "utf8"


def _encodable(value: Any) -> dict[Any, Any]:
    """A mapping that is no dict."""
    return dict(value)


def fail(error: HoldfastError, *, as_json: bool) -> None:
    """Say what happened and what to do, to standard error."""
    if as_json:
        told = {"kind": error.kind, "what": error.what, "do": error.do, "exit_code": error.exit_code}
        print(json.dumps({"error": told}), file=sys.stderr)
        return
    out = console(sys.stderr)
    out.print("error: ", style="bold red", end="")
    out.print(clean(error.what.rstrip("\n")), soft_wrap=True)
    if error.do:
        out.print(clean(error.do), soft_wrap=True)


@contextmanager
def progress(title: str, total_bytes: int) -> Iterator[Any]:
    """A progress bar over bytes on standard error, where that is a terminal; yields ``advance(bytes)``."""
    if not sys.stderr.isatty() or total_bytes == 0:
        yield lambda done_bytes: None
        return
    from rich.progress import BarColumn, DownloadColumn, Progress, TextColumn, TimeRemainingColumn

    bar = Progress(
        TextColumn("{task.description}"),
        BarColumn(),
        DownloadColumn(binary_units=True),
        TimeRemainingColumn(),
        console=console(sys.stderr),
        transient=True,
    )
    with bar:
        task = bar.add_task(title, total=total_bytes)
        yield lambda done_bytes: bar.advance(task, done_bytes)


def confirm(question: str, *, yes: bool) -> bool:
    """Ask a person; without a terminal nobody can answer, so it is no, unless ``yes``."""
    import typer

    from holdfast.errors import UsageError

    if yes:
        return True
    if not sys.stdin.isatty():
        raise UsageError(f"{question} Nobody is there to answer.", do="Say --yes if you mean it.")
    return bool(typer.confirm(clean(question), err=True))
