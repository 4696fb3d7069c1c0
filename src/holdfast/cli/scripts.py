"""Commands that are somebody else's: what 'run', 'prove' and 'drill' start."""

from __future__ import annotations

import os
import sys
from collections.abc import Sequence
from contextlib import suppress
from typing import Annotated

import typer

from holdfast.cli import output

CommandArgument = Annotated[
    list[str] | None,
    typer.Argument(metavar="COMMAND", help="The training, as in a shell; best after --.", show_default=False),
]


def command_words(what: Sequence[str] | None, verb: str) -> tuple[str, ...]:
    """The command to start; a bare Python file is given to this Python, as torchrun does.

    Raises
    ------
    UsageError
        There is none.
    """
    from holdfast.errors import UsageError

    if not what:
        raise UsageError("No command is given.", do=f"Write: holdfast {verb} -- python train.py")
    is_script = what[0].endswith(".py") and not os.access(what[0], os.X_OK)
    return (sys.executable, *what) if is_script else tuple(what)


def refuse_elsewhere(verb: str) -> None:
    """Refuse what needs process groups and anonymous files as Linux has them."""
    from holdfast.errors import UnsupportedError

    if sys.platform != "linux":
        raise UnsupportedError(f"'holdfast {verb}' needs Linux.", do="Start the training by itself.")


def say(text: str) -> None:
    """Print a line beside what the training prints; a terminal that is gone must not end it."""
    with suppress(OSError):
        output.note(f"holdfast run: {text}")
