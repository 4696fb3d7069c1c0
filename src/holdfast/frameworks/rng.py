"""Every global random generator of the process, as one value."""

from __future__ import annotations

from typing import Any

from holdfast.frameworks import registry


def capture_rng() -> dict[str, Any]:
    """State of the global generators of all active frameworks; consumes no randomness."""
    return {f.name: state for f in registry.active() if (state := f.rng_state()) is not None}


def restore_rng(saved: dict[str, Any]) -> None:
    """Put back what `capture_rng` returned.

    A framework that the script has yet to import is imported now: its generators would begin with
    a seed of their own later. One that cannot be imported here cannot draw either: it is skipped.
    """
    for framework in registry.importable(saved):
        framework.set_rng_state(saved[framework.name])
