"""What the attempts of a run say of failures."""

from __future__ import annotations

import pytest

from holdfast.domain.failures import PRIOR_SECONDS, Reliability
from holdfast.domain.names import AttemptId
from holdfast.repository import history
from holdfast.repository.history import reliability_before
from holdfast.repository.repository import Repository
from holdfast.repository.run import Run
from simulated_store import SimulatedDisk, SimulatedStore

HOUR_SECONDS = 3600.0


class Past:
    """A run whose attempts come one after the other, an hour each."""

    def __init__(self) -> None:
        self.disk = SimulatedDisk()
        self.run: Run = Repository.create(SimulatedStore(self.disk)).run("main")

    def attempt(self, cause: str | None = None, *, based: bool = True, done: bool = False) -> AttemptId:
        attempt = self.run.begin_attempt()
        if based:
            self.run.record_base(attempt, None)
        self.disk.advance(HOUR_SECONDS)
        if cause is not None:
            self.run.record_end(attempt, cause, 5, done=done)
        return attempt


def test_kills_and_exceptions_count_and_ends_in_order_do_not() -> None:
    past = Past()
    past.attempt()
    past.attempt("RuntimeError: x")
    past.attempt("SIGTERM")
    past.attempt("finished", done=True)
    past.attempt("OSError: it never trained", based=False)
    seen = reliability_before(past.run, past.attempt())
    assert seen.failures == 2
    assert seen.observed_seconds == pytest.approx(4 * HOUR_SECONDS)


def test_the_present_attempt_is_no_part_of_the_past() -> None:
    past = Past()
    first = past.attempt("RuntimeError: x")
    assert reliability_before(past.run, first) == Reliability()


def test_only_the_newest_attempts_count(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(history, "REMEMBERED", 3)
    past = Past()
    for _ in range(5):
        past.attempt("RuntimeError: x")
    assert reliability_before(past.run, past.attempt()).failures == 3


def test_records_that_cannot_be_read_say_nothing() -> None:
    past = Past()
    first = past.attempt("RuntimeError: x")
    past.run.storage.put(past.run.layout.base(first), [b"no record"])
    assert reliability_before(past.run, past.attempt()).between_failures_seconds == 2 * PRIOR_SECONDS
