"""What loops ask of the session they run in."""

from __future__ import annotations

from typing import Any, Protocol


class Host(Protocol):
    """What the loops need of the session they run in."""

    def safe_point(self, *, counted: bool) -> None:
        """Save if one is due and the state is settled; may end the process.

        ``counted`` says that every delivered batch has been counted by a step.
        """
        ...

    def turn(self) -> None:
        """A turn begins."""
        ...

    def stepped(self, step: int, metrics: dict[str, Any]) -> None:
        """A step has been counted."""
        ...

    def leaving(self) -> bool:
        """Whether a signal asked to end, or does so in the next moment."""
        ...

    def leave(self) -> None:
        """End as that signal asks."""
        ...

    def warn(self, text: str) -> None: ...
