"""How far apart the saves of a live run are, and why: as its trainer wrote it into its lease."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from holdfast.repository.run import Run


def told(run: Run) -> dict[str, Any] | None:
    """The choice for programs; ``why`` is the sentence for people."""
    from holdfast.node.lease import live

    leases = live(run.storage, run.layout.leases)
    choice = next((lease.saving for lease in leases if lease.saving is not None), None)
    if choice is None:
        return None
    return {
        "interval_seconds": choice.interval_seconds,
        "save_seconds": choice.save_seconds,
        "between_failures_seconds": choice.reliability.between_failures_seconds,
        "failures": choice.reliability.failures,
        "observed_seconds": choice.reliability.observed_seconds,
        "loss_seconds": choice.loss_seconds,
        "overhead": choice.overhead,
        "why": str(choice),
    }
