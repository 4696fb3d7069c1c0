"""Other repositories to which a run's checkpoints are brought, each with a rule of its own."""

from __future__ import annotations

import msgspec


class Mirror(msgspec.Struct, frozen=True):
    """One of them.

    Attributes
    ----------
    place : str
        Folder, by its whole path, or URL.
    keep : str or None
        What to keep there; None: everything that came.
    """

    place: str
    keep: str | None = None
