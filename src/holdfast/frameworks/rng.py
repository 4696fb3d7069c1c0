"""Every global random generator of the process, as one value."""

from __future__ import annotations

from typing import Any

from holdfast.frameworks import registry


def capture_rng() -> dict[str, Any]:
    """State of the global generators of all active frameworks; consumes no randomness."""
    return {f.name: state for f in registry.active() if (state := f.rng_state()) is not None}


def restore_rng(saved: dict[str, Any]) -> None:
    """Put back what `capture_rng` returned; frameworks this process does not use are skipped."""
    for framework in registry.active():
        if framework.name in saved:
            framework.set_rng_state(saved[framework.name])
