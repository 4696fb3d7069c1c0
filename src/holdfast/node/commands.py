"""Commands of the command line, run beside this process in processes of their own."""

from __future__ import annotations

import os
import sys


def command(*words: str) -> list[str]:
    """The program and arguments that run these words; nothing in the present folder shadows a module."""
    return [sys.executable, "-P", "-m", "holdfast", *words]


def environment() -> dict[str, str]:
    """In which it finds the modules that this process does."""
    return os.environ | {"PYTHONPATH": os.pathsep.join(path for path in sys.path if path)}


def last_error(said: str, code: int) -> str:
    """What went wrong, from what a command said on standard error, and its exit code."""
    lines = said.strip().splitlines()
    errors = [number for number, line in enumerate(lines) if line.startswith("error: ")]
    if errors:
        return " ".join(lines[errors[-1] :]).removeprefix("error: ")
    return lines[-1] if lines else f"it ended with {code}"


def not_brought(said: str) -> str:
    """What a `sync` left out, by what it said on standard error: the first line of each, in one."""
    lines = [line.partition(": not brought: ")[2].rstrip(":.") for line in said.splitlines()]
    left = [line for line in lines if line]
    return f"{'; '.join(left)}." if left else ""
