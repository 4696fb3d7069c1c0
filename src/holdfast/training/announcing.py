"""What is told of a launch to whoever follows the run."""

from __future__ import annotations

from typing import Any

from holdfast.domain.events import Launched
from holdfast.domain.lineage import first_attempt
from holdfast.errors import NotFoundError
from holdfast.repository.run import Run


def launched(run: Run, config: dict[str, Any], step: int) -> Launched:
    """The launch of the attempt that heads the run."""
    attempts = run.attempts()
    head = run.head()
    if head is None:
        raise NotFoundError(f"The records of the run {run.name} have vanished.", do="Start it again.")
    return Launched(
        run.name,
        location=run.storage.location,
        repository=run.repository.id,
        attempt=str(head.id),
        first_attempt=str(first_attempt(attempts, head.id)),
        step=step,
        config=config,
    )
