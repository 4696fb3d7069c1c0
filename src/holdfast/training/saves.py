"""A save as the script sees it that asked for it."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import TYPE_CHECKING

from holdfast.errors import HoldfastError, UsageError

if TYPE_CHECKING:
    from holdfast.domain.names import CheckpointId
    from holdfast.training.ways import Outcome


class Save:
    """A save that was asked for; done once it is durable, failed, or skipped.

    Attributes
    ----------
    checkpoint : CheckpointId or None
        Set once the save is durable.
    error : HoldfastError or None
        Why it failed or was skipped; or, of a durable one, why it could not be tagged.
    """

    def __init__(self, tag: str | None = None) -> None:
        self.tag = tag
        self.checkpoint: CheckpointId | None = None
        self.error: HoldfastError | None = None
        self._wait: Callable[[float | None], None] | None = None
        self._wait_uploaded: Callable[[int, float | None], bool] | None = None

    @property
    def done(self) -> bool:
        return self.checkpoint is not None or self.error is not None

    def wait_durable(self, timeout_seconds: float | None = None) -> CheckpointId:
        """Return the checkpoint once it is durable.

        Raises
        ------
        HoldfastError
            The save failed: its error. UsageError if the loop has not reached the safe point
            at which it happens, which waiting would prevent.
        TimeoutError
            It is neither durable nor lost after ``timeout_seconds``.
        """
        if not self.done and self._wait is not None:
            self._wait(timeout_seconds)
        if self.error is not None:
            raise self.error
        if self.checkpoint is not None:
            return self.checkpoint
        if self._wait is not None:
            raise TimeoutError(f"The save is not durable after {timeout_seconds} s.")
        raise UsageError(
            "This save happens when the present turn of the loop ends, so it cannot be waited for here.",
            do="Look at it in the next turn, or save outside the loops.",
        )

    def wait_uploaded(self, timeout_seconds: float | None = None) -> CheckpointId:
        """Return the checkpoint once it, or a newer one in its place, is at the mirror.

        Raises
        ------
        HoldfastError
            As from `wait_durable`. UsageError if this run has no mirror that is written to.
        TimeoutError
            It is not there after ``timeout_seconds``; it still may come.
        """
        started = time.monotonic()
        checkpoint = self.wait_durable(timeout_seconds)
        left = None if timeout_seconds is None else timeout_seconds - (time.monotonic() - started)
        if self._wait_uploaded is None or not self._wait_uploaded(checkpoint.sequence, left):
            raise TimeoutError(f"{checkpoint.step} is not at the mirror after {timeout_seconds} s.")
        return checkpoint

    def _settle(self, outcome: Outcome) -> None:
        """Take what became of it."""
        self.checkpoint = outcome.checkpoint
        self.error = outcome.error or outcome.untagged.get(self.tag or "")
