"""Snapshots that were on their way to an agent, saved in this process."""

from __future__ import annotations

from collections.abc import Sequence

from holdfast.domain.names import CheckpointId
from holdfast.repository.run import Run
from holdfast.repository.stored import ParentsTensor
from holdfast.training.flights import Flight
from holdfast.training.ways import Blocking


def hand_over(flights: Sequence[Flight], way: Blocking, run: Run, parent: CheckpointId | None) -> None:
    """Save in this process what no agent will; what a snapshot was taken without is read from the parent."""
    for flight in flights:
        draft = flight.draft
        if parent is not None and draft.is_unchanged_in(parent):
            absent = {n: ParentsTensor(run, parent, n, draft.sources[n].spec) for n in draft.left_out}
            draft.sources = {**draft.sources, **absent}
        way.submit(draft, flight.staged.tags, urgent=True, details=flight.details)
