"""How the attempts of a run went so far."""

from __future__ import annotations

from holdfast.domain.failures import NOTHING_SEEN, Life, Reliability, reliability
from holdfast.domain.names import AttemptId
from holdfast.errors import HoldfastError
from holdfast.repository import records
from holdfast.repository.run import Run

REMEMBERED = 32
"""Attempts: what was longer ago tells little of the machines of today."""


def reliability_before(run: Run, attempt: AttemptId) -> Reliability:
    """What the attempts before this one say of failures; nothing, if they cannot be read."""
    try:
        earlier = [one.id for one in run.attempts() if one.based and one.id < attempt][-REMEMBERED:]
        lives = [life for one in earlier if (life := _life(run, one)) is not None]
        return reliability(lives, run.storage.now_seconds())
    except HoldfastError:  # only when to save depends on it
        return NOTHING_SEEN


def _life(run: Run, attempt: AttemptId) -> Life | None:
    began = records.read_or_none(run.storage, run.layout.attempt(attempt), records.AttemptRecord)
    end = records.read_or_none(run.storage, run.layout.end(attempt), records.EndRecord)
    if began is None:
        return None
    if end is None:
        return Life(began.created_seconds)
    return Life(began.created_seconds, end.ended_seconds, end.cause, end.done)
