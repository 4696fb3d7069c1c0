"""The best checkpoint of a run, by a metric."""

from __future__ import annotations

import math
from contextlib import suppress
from typing import TYPE_CHECKING

from holdfast.domain.manifest import Summary
from holdfast.domain.names import CheckpointId
from holdfast.errors import NotFoundError, UsageError
from holdfast.repository.summaries import Summaries

if TYPE_CHECKING:
    from holdfast.repository.run import Run


def best_of(run: Run, monitor: str | None, mode: str | None) -> CheckpointId | None:
    """The one with the best value, dead branches and rejected ones excluded.

    Without ``monitor``, of the metric that the run's keep rule monitors.
    """
    rejected = run.rejected()
    line = [c for c in run.lineage() if str(c) not in rejected]
    ahead, summaries = Summaries(run, line), dict[CheckpointId, Summary]()
    for c in line:
        with suppress(NotFoundError):  # removed since it was listed: a live run has a newer one
            summaries[c] = ahead.of(c)
    if monitor is None:
        monitor, mode = _monitored(run, summaries)
    values = {c: s.metrics.get(monitor, math.nan) for c, s in summaries.items()}
    finite = {c: v for c, v in values.items() if math.isfinite(v)}
    choose = max if mode == "max" else min
    return choose(finite, key=lambda c: finite[c], default=None)


def _monitored(run: Run, summaries: dict[CheckpointId, Summary]) -> tuple[str, str]:
    for summary in summaries.values():
        if summary.monitor is not None:
            name, _, mode = summary.monitor.rpartition(" ")
            return name, mode
    raise UsageError(
        f"The run {run.name} monitors no metric, so it has no best checkpoint.",
        do="Train with keep(best=..., monitor=...), or name the metric: best('val_loss', 'min').",
    )
