"""Uploads that are killed, refused, repeated or cut short at any of their requests."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
import time
import uuid
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest
from tests import s3_server
from tests.s3_proxy import meddling

import holdfast
from holdfast.cli import app
from holdfast.repository.adopting import BROUGHT_PACK_BYTES
from holdfast.repository.repository import Repository
from holdfast.repository.verify import Verifier
from holdfast.storage.local import LocalStorage
from holdfast.storage.urls import open_storage

SIZE = 40_000
Sent = list[tuple[str, int]]


@pytest.fixture
def here(tmp_path: Path) -> str:
    """Three checkpoints, each of two small packs."""
    place, rng = str(tmp_path / "here"), np.random.default_rng(0)
    frozen = rng.random(SIZE)
    for step in (1, 2, 3):
        holdfast.save(place, {"w": rng.random(SIZE), "frozen": frozen}, step=step)
    return place


@pytest.fixture
def prefix() -> str:
    return uuid.uuid4().hex


class Wire:
    """What goes over it, and what becomes of the Nth request."""

    def __init__(self) -> None:
        self.sent: Sent = []
        self.at: int | None = None
        self.act: Callable[[], int | str | None] = lambda: None

    def __call__(self, method: str, headers: dict[str, str]) -> int | str | None:
        self.sent.append((method, int(headers.get("content-length", 0))))
        return self.act() if self.at is not None and len(self.sent) == self.at else None

    @property
    def sent_bytes(self) -> int:
        return sum(size for method, size in self.sent if method == "PUT")


@pytest.fixture
def wire() -> Wire:
    return Wire()


@pytest.fixture
def endpoint(s3: str, wire: Wire) -> Iterator[str]:
    with meddling(s3, wire) as made:
        yield made


def sync(here: str, place: str) -> int:
    return app.run(("sync", here, place))


def assert_sound(s3: str, prefix: str, steps: set[int]) -> None:
    """Whatever is listed there is whole; without a manifest there is nothing."""
    repository = Repository.open(open_storage(s3_server.url(s3, prefix)))
    run, verifier = repository.run("main"), Verifier(repository)
    found = {c.step for c in run.checkpoints()}
    assert found <= steps
    assert all((v := verifier.check(run, c)) is not None and v.ok for c in run.checkpoints())


def killed_at(here: str, place: str, wire: Wire, number: int) -> bool:
    """Run a sync in a process of its own and kill it as its Nth request arrives; whether it came to that."""
    program = "import sys; from holdfast.cli.app import main; main()"
    words = [sys.executable, "-c", program, "sync", here, place]
    is_met = threading.Event()
    wire.sent.clear()
    wire.at, wire.act = number, lambda: (is_met.set(), time.sleep(0.2))[1]
    with subprocess.Popen(words, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL) as process:
        while process.poll() is None and not is_met.wait(0.01):
            pass
        with_kill = process.poll() is None
        if with_kill:
            os.kill(process.pid, signal.SIGKILL)
    wire.at = None
    return with_kill and is_met.is_set()


def test_an_upload_killed_at_any_request_goes_on(
    s3: str, endpoint: str, wire: Wire, here: str, capfd: pytest.CaptureFixture[str]
) -> None:
    whole = s3_server.url(endpoint, uuid.uuid4().hex)
    assert sync(here, whole) == 0
    requests, all_bytes = len(wire.sent), wire.sent_bytes
    assert requests > 30
    place, prefix = s3_server.url(endpoint, one := uuid.uuid4().hex), one
    kills = 0
    for number in range(3, requests, max(requests // 8, 1)):
        kills += killed_at(here, place, wire, number)
        if open_storage(place).stat("holdfast.json") is not None:
            assert_sound(s3, prefix, {1, 2, 3})
    assert kills >= 4
    wire.sent.clear()
    assert sync(here, place) == 0
    assert wire.sent_bytes < all_bytes
    assert_sound(s3, prefix, {1, 2, 3})
    assert [c.step for c in holdfast.open(place)["main"]] == [1, 2, 3]


@pytest.mark.parametrize("trouble", [500, 503, 429, 409, "lose", "cut", "twice"])
def test_trouble_with_any_request_is_overcome_or_told(
    s3: str, endpoint: str, wire: Wire, here: str, trouble: int | str, capfd: pytest.CaptureFixture[str]
) -> None:
    assert sync(here, s3_server.url(endpoint, uuid.uuid4().hex)) == 0
    requests = len(wire.sent)
    for number in range(2, requests, max(requests // 3, 1)):
        prefix = uuid.uuid4().hex
        place = s3_server.url(endpoint, prefix)
        wire.sent.clear()
        wire.at, wire.act = number, lambda: trouble
        code = sync(here, place)
        wire.at = None
        if code:
            assert "error:" in capfd.readouterr().err
            assert sync(here, place) == 0
        assert_sound(s3, prefix, {1, 2, 3})
        assert [c.step for c in holdfast.open(place)["main"]] == [1, 2, 3]


def test_credentials_that_expire_half_way_are_told_and_new_ones_go_on(
    s3: str, endpoint: str, wire: Wire, here: str, prefix: str, capfd: pytest.CaptureFixture[str]
) -> None:
    place = s3_server.url(endpoint, prefix)
    wire.at, wire.act = 25, lambda: setattr(wire, "at", len(wire.sent) + 1) or 403  # type: ignore[func-returns-value]
    assert sync(here, place) == 7
    assert "access was denied" in capfd.readouterr().err
    wire.at = None
    assert_sound(s3, prefix, {1, 2, 3})
    assert sync(here, place) == 0
    assert_sound(s3, prefix, {1, 2, 3})


def test_a_cut_at_nine_tenths_costs_little_more(
    s3: str, endpoint: str, wire: Wire, tmp_path: Path, prefix: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    here, rng = str(tmp_path / "large"), np.random.default_rng(0)
    pack_bytes = BROUGHT_PACK_BYTES * 40 // 1500  # 40 MB stand for 1.5 GB
    monkeypatch.setattr("holdfast.repository.adopting.BROUGHT_PACK_BYTES", pack_bytes)
    holdfast.save(here, {f"w{n}": rng.random(250_000) for n in range(20)}, step=1)
    place = s3_server.url(endpoint, prefix)
    wire.act = lambda: setattr(wire, "at", len(wire.sent) + 1) or 403  # type: ignore[func-returns-value]

    def cut(method: str, headers: dict[str, str]) -> int | str | None:
        if wire.at is None and wire.sent_bytes > 36_000_000:
            wire.at = len(wire.sent) + 1
        return Wire.__call__(wire, method, headers)

    with meddling(s3, cut) as cutting:
        assert sync(here, s3_server.url(cutting, prefix)) == 7
    wire.at, before_bytes = None, wire.sent_bytes
    wire.sent.clear()
    assert sync(here, place) == 0
    assert wire.sent_bytes < 0.15 * 40_000_000
    assert before_bytes + wire.sent_bytes < 40_000_000 + 4 * 250_000 * 8, "little was sent twice"
    assert_sound(s3, prefix, {1})


def test_two_that_bring_the_same_at_once_bring_it_whole(
    s3: str, here: str, prefix: str, capfd: pytest.CaptureFixture[str]
) -> None:
    place = s3_server.url(s3, prefix)
    words = [sys.executable, "-c", "from holdfast.cli.app import main; main()", "sync", here, place]
    both = [subprocess.Popen(words, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE) for _ in range(2)]
    codes = [process.wait(60) for process in both]
    for process in both:
        assert process.stderr is not None
        process.stderr.close()
    assert 0 in codes
    assert set(codes) <= {0, 6}
    assert sync(here, place) == 0
    assert_sound(s3, prefix, {1, 2, 3})
    assert {c.step for c in Repository.open(LocalStorage(here)).run("main").checkpoints()} == {1, 2, 3}
