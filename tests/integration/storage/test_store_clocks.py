"""The store's clock is hours away from ours, or ours is put back: ages are the store's, order no clock's."""

from __future__ import annotations

import time
import uuid
from collections.abc import Iterator
from datetime import timedelta
from email.utils import format_datetime, parsedate_to_datetime

import msgspec
import numpy as np
import pytest
from tests import s3_server
from tests.integration.training.launching import at, count
from tests.s3_proxy import meddling

import holdfast
from holdfast.cli import app
from holdfast.errors import BusyError
from holdfast.node import lease
from holdfast.node.process import ProcessIdentity
from holdfast.repository.repository import Repository
from holdfast.storage.urls import open_storage

HOUR_SECONDS = 3600.0
SKEWS = pytest.mark.parametrize(
    "skew_seconds", [-5 * HOUR_SECONDS, 5 * HOUR_SECONDS], ids=["behind", "ahead"]
)


class Clock:
    """Of the store: later than ours by so much, from so many of our seconds on."""

    def __init__(self) -> None:
        self._shifts = [(0.0, 0.0)]

    def __call__(self, headers: dict[str, str]) -> None:
        for name in (name for name in headers if name.lower() == "last-modified"):
            told = parsedate_to_datetime(headers[name])
            later = next(later for since, later in reversed(self._shifts) if since <= told.timestamp())
            headers[name] = format_datetime(told + timedelta(seconds=later), usegmt=True)

    def go_on(self, seconds: float) -> None:
        """Let so much time pass there: what was made before is that much older. It counts whole seconds."""
        time.sleep(1 - time.time() % 1)
        self._shifts.append((float(int(time.time())), self._shifts[-1][1] + seconds))


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def place(s3: str, clock: Clock) -> Iterator[str]:
    with meddling(s3, lambda method, headers: None, amend=clock) as endpoint:
        yield s3_server.url(endpoint, uuid.uuid4().hex)


def steps_in(place: str) -> list[int]:
    return [c.step for c in Repository.open(open_storage(place)).run("main").all_checkpoints()]


def packs_in(place: str) -> int:
    return len(list(open_storage(place).list("packs/")))


@SKEWS
def test_graces_pass_by_the_clock_of_the_store(
    place: str, clock: Clock, skew_seconds: float, capsys: pytest.CaptureFixture[str]
) -> None:
    clock.go_on(skew_seconds)
    for step in (1, 2, 3):
        holdfast.save(place, {"w": np.arange(50_000.0) * step}, step=step)
    assert abs(open_storage(place).now_seconds() - time.time() - skew_seconds) < 60

    def left_by_prune() -> tuple[list[int], int]:
        assert app.run(("prune", "--keep", "last 1", "--yes", "--repository", place)) == 0
        return steps_in(place), packs_in(place)

    assert left_by_prune() == ([1, 2, 3], 3)  # condemned, and waiting
    clock.go_on(7 * HOUR_SECONDS)
    assert left_by_prune() == ([2, 3], 3)  # what the newest was based on stays
    clock.go_on(7 * HOUR_SECONDS)
    assert left_by_prune() == ([2, 3], 2)
    into = {"w": np.zeros(50_000)}
    assert holdfast.load(place, into).step == 3
    assert (into["w"] == np.arange(50_000.0) * 3).all()


@SKEWS
def test_a_lease_from_elsewhere_ends_by_the_clock_of_the_store(
    place: str, clock: Clock, skew_seconds: float
) -> None:
    clock.go_on(skew_seconds)
    count(place, until=2)  # type: ignore[arg-type]
    held = lease.LeaseRecord(
        msgspec.structs.replace(ProcessIdentity.of_this_process(), host="elsewhere", boot="another"), 0.0
    )
    run = Repository.open(open_storage(place)).run("main")
    key = f"{run.layout.leases}000009-00000000.json"
    run.storage.put(key, [msgspec.json.encode(held)])
    with pytest.raises(BusyError, match="elsewhere"):
        count(place, until=4)  # type: ignore[arg-type]
    clock.go_on(lease.LEASE_SECONDS + 10)
    assert count(place, until=4)["log"] == [0, 1, 2, 3]  # type: ignore[arg-type]


def test_a_clock_that_is_put_back_while_training_changes_no_order(
    place: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    clock = time.time

    def put_back(_: object) -> None:
        monkeypatch.setattr(time, "time", lambda: clock() - 24 * HOUR_SECONDS)

    count(place, until=6, save="every 2 steps", keep="all", each=at(3, put_back))  # type: ignore[arg-type]
    assert steps_in(place) == [2, 4, 6]
    assert holdfast.open(place)["main"].latest.step == 6
    assert count(place, until=8)["log"] == list(range(8))  # type: ignore[arg-type]
