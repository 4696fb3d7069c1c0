"""Messages to people: by a webhook, or by a command, when something has gone wrong or is over."""

from __future__ import annotations

import json
import shlex
import subprocess
from collections.abc import Callable

from holdfast.errors import UsageError
from holdfast.node.delivery import Delivery
from holdfast.observe.following import Record
from holdfast.observe.posting import PATIENCE_SECONDS, Send

_FIRST_ONLY = frozenset({"save_failed", "upload_failed", "found"})
_ALWAYS = frozenset({"launch_ended", "launch_asked", "rejected", "saving_resumed"})


def is_worth_telling(record: Record) -> bool:
    """Whether somebody wants to be told: launches that end, saves that begin to fail, damage, ill health."""
    event = record.get("event")
    return event in _ALWAYS or (event in _FIRST_ONLY and 1 in (record.get("failures"), record.get("times")))


class Notifier:
    """Sends what is worth telling, in its order, from a thread of its own.

    Parameters
    ----------
    name : str
        Of where it goes, for people.
    send : callable
        Takes a message as JSON; raises OSError if it should be tried again.
    say : callable
        Takes a line for people.
    """

    def __init__(self, name: str, send: Send, say: Callable[[str], None]) -> None:
        self._send = send
        self._delivery = Delivery(name, lambda error: not isinstance(error, OSError), say)

    def take(self, record: Record) -> None:
        """Take one line of the log."""
        if is_worth_telling(record):
            data = json.dumps({"text": f"holdfast: {record.get('message', '')}"} | record).encode()
            self._delivery.put(lambda: self._send(data))

    def close(self) -> None:
        self._delivery.close(PATIENCE_SECONDS)


def by_command(command: str) -> Send:
    """Runs a command for each message, which it finds on its standard input.

    Raises
    ------
    UsageError
        It cannot be split into words.
    """
    try:
        words = shlex.split(command)
    except ValueError as error:
        raise UsageError(
            f"The command for notifications cannot be read: {error}.", do="Check its quotes."
        ) from error
    if not words:
        raise UsageError("The command for notifications is empty.", do="Name a program.")

    def send(data: bytes) -> None:
        quiet = subprocess.DEVNULL
        try:
            code = subprocess.run(
                words, input=data, stdout=quiet, stderr=quiet, timeout=PATIENCE_SECONDS, check=False
            ).returncode
        except subprocess.TimeoutExpired:
            raise ValueError(f"{words[0]} takes longer than {PATIENCE_SECONDS:g} s") from None
        if code:
            raise ValueError(f"{words[0]} ended with {code}")

    return send
