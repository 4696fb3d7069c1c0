"""What 'holdfast run' shows of itself to other programs: its log, metrics, notifications."""

from __future__ import annotations

import os
import secrets
import tempfile
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

from holdfast.cli.scripts import say

if TYPE_CHECKING:
    from holdfast.node.pulse import Seen
    from holdfast.observe.following import Record
    from holdfast.supervisor.watching import Audience


@contextmanager
def audience(
    metrics_host: str, metrics_port: int | None, notify_url: str | None, notify_command: str | None
) -> Iterator[Audience]:
    """All who are told of a supervised command, for as long as this lasts.

    Raises
    ------
    UsageError
        Something of it cannot be done.
    """
    from holdfast.node.eventlog import TRACE_VARIABLE, event_log
    from holdfast.supervisor.watching import Audience

    os.environ[TRACE_VARIABLE] = trace = secrets.token_hex(16)
    with ExitStack() as stack:
        takers: list[Callable[[Record], None]] = []
        for told in _notified(stack, notify_url, notify_command):
            takers.append(told)
        wanted = takers or metrics_port is not None
        place = _log_place(stack, needed=bool(wanted))
        look = _served(stack, place, trace, takers, (metrics_host, metrics_port)) if wanted else _unseen
        yield Audience(say=say, emit=event_log(os.environ, "supervisor", say), look=look)


def _log_place(stack: ExitStack, *, needed: bool) -> Path:
    """Where all processes below write; if somebody must read it, there has to be a file."""
    from holdfast.errors import UsageError
    from holdfast.node.eventlog import PLACE_VARIABLE, STANDARD_ERROR

    place = os.environ.get(PLACE_VARIABLE)
    if place == STANDARD_ERROR and needed:
        raise UsageError(
            f"{PLACE_VARIABLE}=- leaves no file that metrics and notifications could be made from.",
            do="Name a file there, or nothing.",
        )
    if not place and needed:
        folder = stack.enter_context(tempfile.TemporaryDirectory(prefix="holdfast-run-"))
        place = str(Path(folder) / "events.jsonl")
    if place and place != STANDARD_ERROR:
        os.environ[PLACE_VARIABLE] = place = str(Path(place).absolute())
    return Path(place or STANDARD_ERROR)


def _notified(stack: ExitStack, url: str | None, command: str | None) -> Iterator[Callable[[Record], None]]:
    from holdfast.observe.notifying import Notifier, by_command, by_url

    ways = [
        ("the address for notifications", by_url(url)) if url is not None else None,
        ("the command for notifications", by_command(command)) if command is not None else None,
    ]
    for way in ways:
        if way is not None:
            notifier = Notifier(*way, say)
            stack.callback(notifier.close)
            yield notifier.take


def _served(
    stack: ExitStack,
    place: Path,
    trace: str,
    takers: list[Callable[[Record], None]],
    address: tuple[str, int | None],
) -> Callable[[Seen], None]:
    """Follow the log from now on; returns who takes the page of the trainer."""
    from holdfast.observe.metrics import Metrics
    from holdfast.observe.observing import Observer
    from holdfast.observe.serving import Server

    metrics = Metrics()
    observer = Observer(place, trace, [metrics.take, *takers])
    stack.callback(observer.close)

    def text() -> str:
        observer.look()
        return metrics.text()

    host, port = address
    if port is not None:
        server = Server(host, port, text)
        stack.callback(server.close)
        say(f"metrics are at {server.url}.")
    return metrics.look


def _unseen(seen: Seen) -> None:
    pass
