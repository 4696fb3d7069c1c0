"""One line to the terminal for each event that a person wants to see."""

from __future__ import annotations

import sys

from holdfast.domain.events import Event, Launched, Reported, Saved


def show(event: Event) -> None:
    """Print to standard error, where it mixes with no program's output; what is as it should be is silent."""
    if not isinstance(event, Saved | Launched | Reported):
        print(f"holdfast: {event}", file=sys.stderr, flush=True)


def say(text: str) -> None:
    """Print a line that is no event."""
    print(f"holdfast: {text}", file=sys.stderr, flush=True)
