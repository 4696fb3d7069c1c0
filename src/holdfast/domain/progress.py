"""How far a run has come."""

from __future__ import annotations

import msgspec


class Progress(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Counts of settled work.

    Attributes
    ----------
    step : int
        Steps counted by ``step()`` over the whole run.
    epoch : int
        Epochs completed.
    batch : int
        Batches delivered of the epoch in progress.
    samples : int
        Samples delivered over the whole run, where their number can be told.
    """

    step: int = 0
    epoch: int = 0
    batch: int = 0
    samples: int = 0
