"""Errands of an agent: what counts as done, what is told, and what is left of one that is ended."""

from __future__ import annotations

import json
import socket
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any
from unittest.mock import Mock

import numpy as np
import psutil
import pytest

import holdfast
from holdfast.agent import errand, errands
from holdfast.agent.errands import Errand, Rounds
from holdfast.node.commands import last_error
from holdfast.node.lease import claiming
from holdfast.node.messages import Message, Told, Uploaded
from holdfast.storage.local import LocalStorage

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="agents are Linux's")
PATIENCE_SECONDS = 60.0


def sync(here: Path, there: str) -> Errand:
    return Errand(f"{there} lags behind", [["sync", str(here), there, "main"]], 1, 0, uploads_to=there)


def until(condition: Callable[[], bool]) -> bool:
    deadline = time.monotonic() + PATIENCE_SECONDS
    while not condition():
        if time.monotonic() > deadline:
            return False
        time.sleep(0.02)
    return True


def ended(rounds: Rounds) -> bool:
    """Whether no round is under way, having looked at it."""
    rounds._collect()
    return rounds._running is None


def processes(word: str) -> set[int]:
    found = [p for p in psutil.process_iter(["cmdline", "status"]) if p.info["status"] != "zombie"]
    return {p.pid for p in found if any(word in w for w in p.info["cmdline"] or [])}


@pytest.fixture
def here(tmp_path: Path) -> Path:
    holdfast.save(tmp_path / "here", {"weights": np.arange(10.0)}, step=1)
    return tmp_path / "here"


@pytest.fixture
def silent() -> Iterator[str]:
    """A store that takes connections and never answers."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        yield f"s3://bucket/silent-{server.getsockname()[1]}?endpoint=http://127.0.0.1:{server.getsockname()[1]}&region=r"


def test_that_memory_is_too_short_for_an_upload_is_told(
    here: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    told: list[Message] = []
    there = str(tmp_path / "there")
    rounds = Rounds(sync(here, there), told.append)
    rounds.committed(1)
    with monkeypatch.context() as short:
        short.setattr(errands, "available_bytes", lambda: 0)
        rounds.look(idle=True)
        rounds.look(idle=True)
    assert [t.text for t in told if isinstance(t, Told)] == [
        f"{there} lags behind: there is too little memory to do it beside training"
    ]
    rounds._not_before = 0.0
    rounds.look(idle=True)
    assert until(lambda: ended(rounds))
    assert told[1:] == [Uploaded(1, there), Told("sync works again.")]


def test_a_round_that_is_done_says_how_far(here: Path, tmp_path: Path) -> None:
    told: list[Message] = []
    rounds = Rounds(sync(here, str(tmp_path / "there")), told.append)
    rounds.look(idle=True)
    assert not rounds.is_open
    rounds.committed(1)
    rounds.look(idle=True)
    rounds.committed(2)  # perhaps too late for this round
    assert until(lambda: ended(rounds))
    assert told == [Uploaded(1, str(tmp_path / "there"))]
    assert rounds.is_open
    assert holdfast.open(tmp_path / "there")["main"].latest.step == 1


def test_saves_that_follow_one_another_without_a_pause_come_to_the_mirror(here: Path, tmp_path: Path) -> None:
    told: list[Message] = []
    rounds = Rounds(sync(here, str(tmp_path / "there")), told.append)
    rounds.committed(1)
    rounds.look(idle=False)
    assert rounds._running is not None
    assert until(lambda: ended(rounds))
    assert told == [Uploaded(1, str(tmp_path / "there"))]


def test_what_is_done_gently_waits_until_nothing_is_saved(here: Path) -> None:
    rounds = Rounds(Errand("no", [["compact", "main", "--repository", str(here)]], 1, 0, gently=True), Mock())
    rounds.committed(1)
    rounds.look(idle=False)
    assert rounds._running is None


def test_what_another_trainer_saved_does_not_count_for_this_one(here: Path, tmp_path: Path) -> None:
    told: list[Message] = []
    rounds = Rounds(sync(here, str(tmp_path / "there")), told.append)
    rounds.committed(50)
    rounds.look(idle=True)
    rounds.serve_another()
    assert until(lambda: ended(rounds))
    assert told == [Uploaded(0, str(tmp_path / "there"))]


def test_each_try_to_reach_a_mirror_is_an_event(here: Path, tmp_path: Path) -> None:
    emitted: list[Any] = []
    (tmp_path / "there").write_text("in the way")
    rounds = Rounds(sync(here, str(tmp_path / "there")), lambda message: None, emitted.append)
    rounds.committed(1)
    for number in (1, 2):
        rounds._not_before = 0.0
        rounds.look(idle=True)
        assert until(lambda: ended(rounds))
        assert (emitted[-1].failures, emitted[-1].backlog) == (number, 1)
    (tmp_path / "there").unlink()
    rounds._not_before = 0.0
    rounds.look(idle=True)
    rounds.committed(2)
    assert until(lambda: ended(rounds))
    assert (emitted[-1].checkpoints, emitted[-1].backlog) == (1, 1)
    assert [type(event).__name__ for event in emitted] == ["UploadFailed", "UploadFailed", "Uploaded"]


def test_a_failure_is_told_once_in_its_own_words(here: Path, tmp_path: Path) -> None:
    told: list[Message] = []
    (tmp_path / "file").write_text("")
    rounds = Rounds(sync(here, str(tmp_path / "file/there")), told.append)
    for _ in range(2):
        rounds.committed(1)
        rounds._not_before = 0.0
        rounds.look(idle=True)
        assert until(lambda: ended(rounds))
    (message,) = told
    assert isinstance(message, Told)
    assert "lags behind: " in message.text
    assert "a link or file stands where a folder belongs" in message.text


def test_what_is_left_out_is_told_by_name_and_again_when_it_changes(here: Path, tmp_path: Path) -> None:
    told: list[Message] = []
    rounds = Rounds(sync(here, str(tmp_path / "there")), told.append)
    for step in range(2, 7):
        known = set((here / "packs").rglob("*.pack"))
        holdfast.save(here, {"weights": np.random.default_rng(step).random(9000)}, step=step)
        (pack,) = set((here / "packs").rglob("*.pack")) - known
        if step in (2, 5):
            pack.chmod(0o600)
            pack.write_bytes(bytes(pack.stat().st_size))
        if step in (3, 4, 6):
            rounds.committed(step)
            rounds.look(idle=True)
            assert until(lambda: ended(rounds))
    left = f"{tmp_path / 'there'} has all but what is damaged here: The checkpoint main@"
    assert [message.text for message in told if isinstance(message, Told)] == [
        f"{left}2 is damaged.",
        f"{left}5 is damaged; The checkpoint main@2 is damaged.",
    ]


def test_a_mirror_that_is_busy_has_not_got_it(here: Path, tmp_path: Path) -> None:
    there = tmp_path / "there"
    holding, let_go = threading.Event(), threading.Event()

    def hold() -> None:
        with claiming(LocalStorage(there, create=True), "main"):
            holding.set()
            let_go.wait(PATIENCE_SECONDS)

    holder = threading.Thread(target=hold)
    holder.start()
    holding.wait()
    try:
        assert errand.main(json.dumps([["sync", str(here), str(there), "main"]]), "0") != 0
    finally:
        let_go.set()
        holder.join()
    assert errand.main(json.dumps([["sync", str(here), str(there), "main"]]), "0") == 0


def test_the_last_round_takes_the_place_of_one_under_way(here: Path, silent: str) -> None:
    rounds = Rounds(sync(here, silent), lambda message: None)
    rounds.committed(1)
    rounds.look(idle=True)
    first = rounds._running
    assert first is not None
    assert until(lambda: len(processes(silent)) == 2), "the runner and its command"
    before = processes(silent)
    rounds.end()
    try:
        assert until(lambda: len(processes(silent)) == 2 and before.isdisjoint(processes(silent)))
    finally:
        assert rounds._running is not None
        rounds._stop(rounds._running)
    assert until(lambda: not processes(silent))


@pytest.mark.parametrize(
    ("said", "told"),
    [
        ("error: It is full.\nFree space.\n", "It is full. Free space."),
        ("note: x\nerror: a\nb\nerror: c\n", "c"),
        ("Traceback\nZeroDivisionError: 0", "ZeroDivisionError: 0"),
        ("", "it ended with 9"),
    ],
)
def test_an_error_is_told_whole(said: str, told: str) -> None:
    assert last_error(said, 9) == told
