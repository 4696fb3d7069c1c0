"""Commands that give a key: run as they are, without a shell; what they print is never shown."""

from __future__ import annotations

import shlex
import subprocess

from holdfast.errors import UsageError

ANSWER_SECONDS = 120.0
"""A person may have to touch a token."""


def answer_of(command: str, *words: str, given: bytes = b"") -> bytes:
    """What a command prints, without white space around it.

    Raises
    ------
    UsageError
        It cannot be run, fails, or takes too long.
    """
    try:
        program = [*shlex.split(command), *words]
        done = subprocess.run(
            program, input=given, stdout=subprocess.PIPE, timeout=ANSWER_SECONDS, check=False
        )
    except (OSError, ValueError, subprocess.TimeoutExpired) as error:
        raise _failed(type(error).__name__) from None
    if done.returncode:
        raise _failed(f"it ended with {done.returncode}")
    return done.stdout.strip()


def _failed(why: str) -> UsageError:
    return UsageError(f"The command that gives the key did not: {why}.", do="Run it by hand to see why.")
