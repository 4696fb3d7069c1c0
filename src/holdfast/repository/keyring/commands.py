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
        raise _failed(_why(error)) from None
    if done.returncode:
        raise _failed(f"it ended with {done.returncode}")
    return done.stdout.strip()


def _why(error: Exception) -> str:
    if isinstance(error, FileNotFoundError):
        return f"there is no command {error.filename}"
    if isinstance(error, subprocess.TimeoutExpired):
        return f"it took longer than {ANSWER_SECONDS:.0f} s"
    return (isinstance(error, OSError) and error.strerror) or str(error)


def _failed(why: str) -> UsageError:
    return UsageError(f"The command that gives the key did not: {why}.", do="Run it by hand to see why.")
