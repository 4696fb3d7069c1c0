"""One round of an errand, in a process of its own: commands of the command line, one after the other."""

from __future__ import annotations

import json
import subprocess
import time

from holdfast.agent.errands import PAUSES_SECONDS
from holdfast.errors import BusyError, DamagedError, NotFoundError, UnsupportedError, UsageError
from holdfast.node.commands import command

MAY_WAIT = frozenset(
    {
        ("compact", BusyError.exit_code),
        ("prune", BusyError.exit_code),
        ("publish", NotFoundError.exit_code),  # nothing is best yet, or has the tag
    }
)
"""What may be left for the next round; what was not brought to a mirror is not there."""
HOPELESS = frozenset({UsageError.exit_code, UnsupportedError.exit_code})
"""What trying again does not change."""


def main(commands_json: str, last_seconds: str) -> int:
    """Run the commands; after a failure all of them again, for so many seconds; return the last code."""
    commands = json.loads(commands_json)
    until = time.monotonic() + float(last_seconds)
    tries = 0
    while (failed := _first_failure(commands)) and failed not in HOPELESS and time.monotonic() < until:
        time.sleep(PAUSES_SECONDS[min(tries, len(PAUSES_SECONDS) - 1)])
        tries += 1
    return failed


def _first_failure(commands: list[list[str]]) -> int:
    """The code of the first that fails, which ends the round; what is damaged is all that `sync` leaves."""
    damaged = 0
    for words in commands:
        code = subprocess.run(command(*words), check=False).returncode
        if (words[0], code) == ("sync", DamagedError.exit_code):
            damaged = code
        elif code and (words[0], code) not in MAY_WAIT:
            return code
    return damaged
