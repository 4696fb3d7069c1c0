"""Messages reach whoever is to be told, and only what is worth it."""

from __future__ import annotations

import json
import shlex
import sys
from pathlib import Path
from typing import Any

import pytest
from tests.webhook import Webhook

from holdfast.errors import UsageError
from holdfast.node import delivery
from holdfast.observe.notifying import Notifier, by_command, is_worth_telling
from holdfast.observe.posting import poster

ENDED = {"event": "launch_ended", "message": "launch 1 of digits ended", "run": "digits"}


@pytest.fixture(autouse=True)
def impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(delivery, "PAUSES_SECONDS", (0.0,))


@pytest.mark.parametrize(
    ("record", "is_told"),
    [
        (ENDED, True),
        ({"event": "saved"}, False),
        ({"event": "save_failed", "failures": 1}, True),
        ({"event": "save_failed", "failures": 4}, False),
        ({"event": "rejected"}, True),
        ({}, False),
    ],
)
def test_what_is_worth_telling(record: dict[str, Any], is_told: bool) -> None:
    assert is_worth_telling(record) is is_told


def test_a_server_that_is_down_gets_it_later() -> None:
    said: list[str] = []
    with Webhook(503, 500, 200) as hook:
        notifier = Notifier("the address", poster(hook.url, "notifications", {}), said.append)
        notifier.take({"event": "saved"})
        notifier.take(ENDED)
        notifier.close()
    assert hook.received == [{"text": "holdfast: launch 1 of digits ended", **ENDED}] * 3
    assert [text.partition(" ")[0] for text in said] == ["the", "the"]  # it does not take it; it works again


def test_what_a_server_refuses_is_said_and_left_out() -> None:
    said: list[str] = []
    with Webhook(404, 200) as hook:
        notifier = Notifier("the address", poster(hook.url, "notifications", {}), said.append)
        notifier.take(ENDED)
        notifier.take(ENDED | {"step": 2})
        notifier.close()
    assert len(hook.received) == 2
    assert "it answers 404" in said[0]


def test_a_command_finds_it_on_its_standard_input(tmp_path: Path) -> None:
    code = f"import sys; open({str(tmp_path / 'got')!r}, 'a').write(sys.stdin.read() + '\\n')"
    said: list[str] = []
    notifier = Notifier("the command", by_command(shlex.join([sys.executable, "-c", code])), said.append)
    notifier.take(ENDED)
    notifier.close()
    assert json.loads((tmp_path / "got").read_text())["run"] == "digits"
    assert said == []


def test_a_command_that_fails_is_not_tried_again() -> None:
    said: list[str] = []
    notifier = Notifier("the command", by_command("false"), said.append)
    notifier.take(ENDED)
    notifier.close()
    assert said[0].endswith("false ended with 1")


@pytest.mark.parametrize("url", ["ftp://x", "/etc/passwd", ""])
def test_what_is_no_address_is_refused(url: str) -> None:
    with pytest.raises(UsageError):
        poster(url, "notifications", {})


@pytest.mark.parametrize("command", ["'", "", "  "])
def test_what_is_no_command_is_refused(command: str) -> None:
    with pytest.raises(UsageError):
        by_command(command)
