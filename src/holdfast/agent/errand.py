"""One round of an errand, in a process of its own: commands of the command line, one after the other."""

from __future__ import annotations

import json
import subprocess
import time
from contextlib import suppress

from holdfast.agent.errands import LEFT_DAMAGED, NEWEST_LEFT, PAUSES_SECONDS
from holdfast.domain.names import CheckpointId
from holdfast.errors import (
    BusyError,
    DamagedError,
    HoldfastError,
    NotFoundError,
    UnsupportedError,
    UsageError,
)
from holdfast.node.commands import command
from holdfast.repository.repository import Repository
from holdfast.storage.urls import open_storage

MAY_WAIT = frozenset(
    {
        ("compact", BusyError.exit_code),
        ("prune", BusyError.exit_code),
        ("publish", NotFoundError.exit_code),  # nothing is best yet, or has the tag
    }
)
"""What may be left for the next round; what was not brought to a mirror is not there."""
HOPELESS = frozenset({UsageError.exit_code, UnsupportedError.exit_code, LEFT_DAMAGED})
"""What trying again does not change; but a mirror may be a file, or no bucket, only for a while."""


def main(commands_json: str, last_seconds: str) -> int:
    """Run the commands; after a failure all of them again, for so many seconds; return the last code."""
    commands = json.loads(commands_json)
    until = time.monotonic() + float(last_seconds)
    tries = 0
    while (failed := _first_failure(commands))[1] and time.monotonic() < until:
        if failed[1] in HOPELESS and failed != ("sync", UsageError.exit_code):
            break
        time.sleep(PAUSES_SECONDS[min(tries, len(PAUSES_SECONDS) - 1)])
        tries += 1
    return failed[1]


def _first_failure(commands: list[list[str]]) -> tuple[str, int]:
    """The first that fails, which ends the round, and its code; what is damaged is all that `sync` leaves."""
    left = 0
    for words in commands:
        newest = _newest(words[1], words[3]) if words[0] == "sync" else None
        code = subprocess.run(command(*words), check=False).returncode
        if (words[0], code) == ("sync", DamagedError.exit_code):
            if not _has(words[2], words[3], newest):
                return "sync", NEWEST_LEFT  # no prune: what the mirror would resume from may be all it has
            left = LEFT_DAMAGED
        elif code and (words[0], code) not in MAY_WAIT:
            return words[0], code
    return "sync", left


def _newest(place: str, run: str) -> CheckpointId | None:
    """What a launch there would go on from."""
    with suppress(HoldfastError):
        return Repository.open(open_storage(place), plain=True).run(run).latest()
    return None


def _has(place: str, run: str, newest: CheckpointId | None) -> bool:
    """Whether a launch there would go on from this one, or from one that came after it."""
    there = _newest(place, run)
    return newest is not None and there is not None and there.order[:2] >= newest.order[:2]
