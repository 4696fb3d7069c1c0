from __future__ import annotations

import threading
from collections.abc import Callable

import pytest

from holdfast.node import delivery
from holdfast.node.delivery import Delivery
from holdfast.training import console

PATIENCE_SECONDS = 30.0
Said = pytest.CaptureFixture[str]


@pytest.fixture(autouse=True)
def impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(delivery, "PAUSES_SECONDS", (0.0,))


def made() -> Delivery:
    return Delivery("the server", lambda error: isinstance(error, ValueError), console.say)


def test_tasks_are_done_in_their_order(capsys: Said) -> None:
    done: list[int] = []
    sender = made()
    for number in range(100):
        sender.put(lambda number=number: done.append(number))  # type: ignore[misc]  # one each
    sender.close(PATIENCE_SECONDS)
    assert done == list(range(100))
    assert capsys.readouterr().err == ""


def failing(times: int, done: list[str]) -> Callable[[], None]:
    left = [times]

    def task() -> None:
        left[0] -= 1
        if left[0] >= 0:
            raise OSError("down")
        done.append("done")

    return task


def test_one_that_fails_is_tried_again_and_told_once(capsys: Said) -> None:
    done: list[str] = []
    sender = made()
    sender.put(failing(5, done))
    sender.put(lambda: done.append("next"))
    sender.close(PATIENCE_SECONDS)
    assert done == ["done", "next"]
    said = capsys.readouterr().err
    assert said.count("does not take what it is sent; training goes on. down") == 1
    assert said.count("works again") == 1


def test_what_is_refused_is_left_out_and_the_rest_is_done(capsys: Said) -> None:
    done: list[str] = []

    def refused() -> None:
        raise ValueError("no such thing")

    sender = made()
    sender.put(refused)
    sender.put(lambda: done.append("next"))
    sender.close(PATIENCE_SECONDS)
    assert done == ["next"]
    assert "refuses something: no such thing" in capsys.readouterr().err


def test_the_same_refusal_is_told_once(capsys: Said) -> None:
    def refused() -> None:
        raise ValueError("access denied")

    sender = made()
    for _ in range(20):
        sender.put(refused)
    sender.close(PATIENCE_SECONDS)
    said = capsys.readouterr().err
    assert said.count("refuses something: access denied") == 1
    assert "20 messages to the server are lost" in said


def test_more_than_fits_is_lost_and_counted_and_nobody_waits(
    monkeypatch: pytest.MonkeyPatch, capsys: Said
) -> None:
    monkeypatch.setattr(delivery, "CAPACITY", 3)
    gate, done = threading.Event(), []
    sender = made()
    sender.put(lambda: gate.wait(PATIENCE_SECONDS) and None)
    for number in range(5):
        sender.put(lambda number=number: done.append(number))  # type: ignore[misc]  # one each
    gate.set()
    sender.close(PATIENCE_SECONDS)
    assert done == [0, 1]
    assert "3 messages to the server are lost" in capsys.readouterr().err


def test_the_end_does_not_wait_for_ever(capsys: Said) -> None:
    sender = made()
    sender.put(failing(10**9, []))
    sender.close(0.05)
    assert "1 messages to the server are lost" in capsys.readouterr().err
