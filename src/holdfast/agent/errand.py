"""One round of an errand, in a process of its own: commands of the command line, one after the other."""

from __future__ import annotations

import json
import subprocess
import time
from contextlib import suppress

from holdfast.agent.errands import LEFT_DAMAGED, NEWEST_LEFT, PAUSES_SECONDS, REFUSED_FOR_NOW
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
from holdfast.repository.run import Run
from holdfast.repository.syncing import own_attempts
from holdfast.storage.urls import check_shared, open_storage

MAY_WAIT = frozenset(
    {
        ("compact", BusyError.exit_code),
        ("prune", BusyError.exit_code),
        ("publish", NotFoundError.exit_code),  # nothing is best yet, or has the tag
    }
)
"""What may be left for the next round; what was not brought to a mirror is not there."""
HOPELESS = frozenset({UsageError.exit_code, UnsupportedError.exit_code, LEFT_DAMAGED})
"""What trying again does not change."""


def main(commands_json: str, last_seconds: str) -> int:
    """Run the commands; after a failure all of them again, for so many seconds; return the last code."""
    commands = json.loads(commands_json)
    until = time.monotonic() + float(last_seconds)
    tries = 0
    while (code := _first_failure(commands)) and code not in HOPELESS and time.monotonic() < until:
        time.sleep(PAUSES_SECONDS[min(tries, len(PAUSES_SECONDS) - 1)])
        tries += 1
    return code


def _first_failure(commands: list[list[str]]) -> int:
    """The code of the first that fails, which ends the round; what is damaged is all that `sync` leaves."""
    left = 0
    for words in commands:
        newest = _newest(words[1], words[3]) if words[0] == "sync" else None
        code = subprocess.run(command(*words), check=False).returncode
        if (words[0], code) == ("sync", DamagedError.exit_code):
            if not _has(words[2], words[3], newest):
                return NEWEST_LEFT  # no prune: what the mirror would resume from may be all it has
            left = LEFT_DAMAGED
        elif (words[0], code) == ("sync", UsageError.exit_code) and not _is_refused_for_good(*words[1:4]):
            return REFUSED_FOR_NOW
        elif code and (words[0], code) not in MAY_WAIT:
            return code
    return left


def _is_refused_for_good(here: str, there: str, run: str) -> bool:
    """Whether the mirror can be none, or has gone on by itself; a file in its place, or a key, may change."""
    try:
        check_shared(there)
    except UsageError:
        return True
    with suppress(HoldfastError):
        return bool(own_attempts(_run_at(here, run), _run_at(there, run)))
    return False


def _newest(place: str, run: str) -> CheckpointId | None:
    """What a launch there would go on from."""
    with suppress(HoldfastError):
        return _run_at(place, run).latest()
    return None


def _has(place: str, run: str, newest: CheckpointId | None) -> bool:
    """Whether a launch there would go on from this one, or from one that came after it."""
    there = _newest(place, run)
    return newest is not None and there is not None and there.order[:2] >= newest.order[:2]


def _run_at(place: str, name: str) -> Run:
    return Repository.open(open_storage(place), plain=True).run(name)
