"""Recovery points before the newest.

They are looked up by a process of its own: libraries that reach stores leave threads behind, and the
supervisor forks.
"""

from __future__ import annotations

import json
import subprocess
from typing import Any

from holdfast.node.commands import command, environment

LOOK_SECONDS = 120.0
"""A store that does not answer for so long is not waited for: the newest recovery point will do."""


def step_back(location: str, run: str, back: int, before: int | None = None) -> int | None:
    """The step of the recovery point so many before the newest, of the oldest if there are fewer.

    Parameters
    ----------
    before : int, optional
        Where it was gone back to already, in vain: the one before that instead, whatever was saved since.

    Returns
    -------
    int or None
        None if there is no earlier one, or none can be seen.
    """
    try:
        done = subprocess.run(
            command("ls", run, "--json", "--repository", location),
            env=environment(),
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            check=False,
            timeout=LOOK_SECONDS,
        )
    except subprocess.TimeoutExpired:
        return None
    steps = recovery_steps(_told(done.stdout)) if done.returncode == 0 else []
    if len(steps) < 2:  # the newest is not earlier
        return None
    if before is not None:
        return next((step for step in steps if step < before), steps[-1])
    return steps[min(back, len(steps) - 1)]


def _told(printed: str) -> list[dict[str, Any]]:
    """Checkpoints as `ls` prints them, behind what a ``sitecustomize`` may have to say."""
    try:
        found: list[dict[str, Any]] = json.loads(printed[printed.index("{\n") :])["checkpoints"]
    except (KeyError, TypeError, ValueError):
        return []
    return found


def recovery_steps(checkpoints: list[dict[str, Any]]) -> list[int]:
    """Steps of those that a run may resume from, newest first."""
    usable = (c for c in checkpoints if c["kind"] == "full" and c["on_line"] and not c["rejected"])
    return sorted({int(c["step"]) for c in usable}, reverse=True)
