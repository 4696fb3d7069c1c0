"""What 'holdfast run' shows of itself to other programs: its log, metrics, notifications."""

from __future__ import annotations

import os
import secrets
import tempfile
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

from holdfast.cli.scripts import say

if TYPE_CHECKING:
    from holdfast.node.pulse import Seen
    from holdfast.observe.following import Record
    from holdfast.supervisor.watching import Audience


class Wanted(NamedTuple):
    """What is to be shown to whom; None: nothing."""

    metrics_host: str
    metrics_port: int | None
    notify_url: str | None
    notify_command: str | None
    traces_url: str | None


@contextmanager
def audience(wanted: Wanted) -> Iterator[Audience]:
    """All who are told of a supervised command, for as long as this lasts.

    Raises
    ------
    UsageError
        Something of it cannot be done.
    """
    from holdfast.node.eventlog import TRACE_VARIABLE, event_log
    from holdfast.supervisor.signals import unheard_by_threads
    from holdfast.supervisor.watching import Audience

    os.environ[TRACE_VARIABLE] = trace = secrets.token_hex(16)
    with ExitStack() as stack:
        takers = list(_senders(stack, wanted))
        is_followed = bool(takers) or wanted.metrics_port is not None
        place = _log_place(stack, needed=is_followed)
        with unheard_by_threads():
            look = _served(stack, place, trace, takers, wanted) if is_followed else _unseen
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


def _senders(stack: ExitStack, wanted: Wanted) -> Iterator[Callable[[Record], None]]:
    """Those who send what the log says to somebody."""
    from holdfast.observe.notifying import Notifier, by_command
    from holdfast.observe.otlp import HEADERS_VARIABLE, SpanSender, headers_given
    from holdfast.observe.posting import poster

    senders: list[Notifier | SpanSender] = []
    if wanted.notify_url is not None:
        send = poster(wanted.notify_url, "notifications", {})
        senders.append(Notifier("the address for notifications", send, say))
    if wanted.notify_command is not None:
        senders.append(Notifier("the command for notifications", by_command(wanted.notify_command), say))
    if wanted.traces_url is not None:
        headers = headers_given(os.environ.get(HEADERS_VARIABLE, ""))
        senders.append(SpanSender(poster(wanted.traces_url, "traces", headers), say))
    for sender in senders:
        stack.callback(sender.close)
        yield sender.take


def _served(
    stack: ExitStack,
    place: Path,
    trace: str,
    takers: list[Callable[[Record], None]],
    wanted: Wanted,
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

    if wanted.metrics_port is not None:
        server = Server(wanted.metrics_host, wanted.metrics_port, text)
        stack.callback(server.close)
        say(f"metrics are at {server.url}.")
    return metrics.look


def _unseen(seen: Seen) -> None:
    pass
