"""Launchers of several ranks: the frameworks' own, which are used and not replaced."""

from __future__ import annotations

import sys
from collections.abc import Mapping, Sequence
from enum import StrEnum
from pathlib import Path

from holdfast.errors import UsageError

_COUNTS = ("--nproc-per-node", "--nproc_per_node")
_LAUNCHERS = ("torchrun", "torch.distributed.run", "torch.distributed.launch", "paddle.distributed.launch")
MOST_RANKS = 1024


class Launcher(StrEnum):
    """Whose."""

    TORCH = "torch"
    PADDLE = "paddle"


def launched(
    command: Sequence[str], ranks: int, launcher: Launcher, options: Mapping[str, str]
) -> tuple[str, ...]:
    """The command that starts another one as so many ranks; it never restarts them: the supervisor does.

    Parameters
    ----------
    options : mapping
        More of the launcher's own, by name without dashes.
    """
    python = command[0] if _is_python(command[0]) else sys.executable
    given = [word for name, value in options.items() for word in (f"--{name}", value)]
    if launcher is Launcher.PADDLE:
        script = command[1:] if _is_python(command[0]) and len(command) > 1 else command
        count = ("--nproc_per_node", str(ranks), "--max_restart", "0")
        return (python, "-m", "paddle.distributed.launch", *count, *given, *script)
    alone = [] if given else ["--standalone"]
    count = ("--nproc-per-node", str(ranks), "--max-restarts", "0")
    return (python, "-m", "torch.distributed.run", *alone, *count, *given, "--no-python", *command)


def ranks_of(command: Sequence[str]) -> int:
    """How many ranks a command starts, by its words; 1 if it is no launcher."""
    if not any(Path(word).name in _LAUNCHERS for word in command[:3]):
        return 1
    words = [part for word in command for part in word.split("=", 1)]
    counts = [words[i + 1] for i, word in enumerate(words[:-1]) if word in _COUNTS]
    return checked_count(counts[-1]) if counts and counts[-1].isdecimal() else 1


def checked_count(text: str) -> int:
    """A number of ranks on one machine.

    Raises
    ------
    UsageError
        It is none.
    """
    if not text.isdecimal() or not 1 <= int(text) <= MOST_RANKS:
        raise UsageError(f"{text!r} is no number of processes.", do="Write --nproc-per-node 2.")
    return int(text)


def _is_python(word: str) -> bool:
    return Path(word).name.startswith("python")
