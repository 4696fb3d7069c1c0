"""Prometheus and Alertmanager as Debian has them, on loopback, for as long as a test needs them."""

from __future__ import annotations

import json
import shutil
import socket
import subprocess
import time
import urllib.error
import urllib.parse
import urllib.request
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).resolve().parent.parent / "observability"
RULES = ROOT / "prometheus" / "holdfast.rules.yml"
PATIENCE_SECONDS = 120.0


def tool(name: str) -> str:
    """Where a program of Debian's is; without it the test is left out."""
    found = shutil.which(name)
    if found is None:
        pytest.skip(f"{name} is not installed: make system")
    return found


class Prometheus:
    """A server that can be asked."""

    def __init__(self, url: str) -> None:
        self.url = url

    def query(self, expression: str) -> list[Any]:
        """The series that an expression gives now."""
        place = f"{self.url}/api/v1/query?" + urllib.parse.urlencode({"query": expression})
        try:
            answer = _get(place)
        except urllib.error.HTTPError as error:
            raise AssertionError(f"{expression}: {error.read().decode()}") from None
        assert answer["status"] == "success", answer
        return list(answer["data"]["result"])

    def until(self, expression: str) -> list[Any]:
        """Wait until an expression gives something."""
        deadline = time.monotonic() + PATIENCE_SECONDS
        while not (found := self.query(expression)):
            assert time.monotonic() < deadline, f"{expression} gives nothing"
            time.sleep(0.1)
        return found


@contextmanager
def prometheus(
    folder: Path, target: str, *, rules: Path | None = None, alerts: str = ""
) -> Iterator[Prometheus]:
    """Scrapes ``target`` four times a second; tells ``alerts`` of what the rules find."""
    port, config = free_port(), folder / "prometheus.yml"
    settings = {
        "global": {"scrape_interval": "250ms", "scrape_timeout": "250ms", "evaluation_interval": "500ms"},
        "rule_files": [str(rules)] if rules is not None else [],
        "alerting": {"alertmanagers": [{"static_configs": [{"targets": [alerts]}]}] if alerts else []},
        "scrape_configs": [{"job_name": "holdfast", "static_configs": [{"targets": [target]}]}],
    }
    config.write_text(json.dumps(settings))  # which is YAML, too
    flags = (f"--config.file={config}", f"--web.listen-address=127.0.0.1:{port}")
    command = [tool("prometheus"), *flags, f"--storage.tsdb.path={folder / 'series'}"]
    with _running(command, folder / "prometheus.log", f"http://127.0.0.1:{port}/-/ready"):
        yield Prometheus(f"http://127.0.0.1:{port}")


@contextmanager
def alertmanager(folder: Path, hook_url: str) -> Iterator[str]:
    """Posts every alert to an address at once; gives its own."""
    port, config = free_port(), folder / "alertmanager.yml"
    route = {"receiver": "hook", "group_by": ["alertname"], "group_wait": "0s", "group_interval": "1s"}
    receivers = [{"name": "hook", "webhook_configs": [{"url": hook_url}]}]
    config.write_text(json.dumps({"route": route, "receivers": receivers}))
    flags = (f"--config.file={config}", f"--web.listen-address=127.0.0.1:{port}", "--cluster.listen-address=")
    command = [tool("prometheus-alertmanager"), *flags, f"--storage.path={folder / 'alerts'}"]
    with _running(command, folder / "alertmanager.log", f"http://127.0.0.1:{port}/-/ready"):
        yield f"127.0.0.1:{port}"


def free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as server:
        return int(server.getsockname()[1])


@contextmanager
def _running(command: Sequence[str], log: Path, ready: str) -> Iterator[None]:
    with log.open("wb") as said:
        process = subprocess.Popen(command, stdout=said, stderr=said)
    try:
        deadline = time.monotonic() + PATIENCE_SECONDS
        while not _answers(ready):
            assert process.poll() is None, log.read_text()
            assert time.monotonic() < deadline, log.read_text()
            time.sleep(0.1)
        yield
    finally:
        process.kill()
        process.wait()


def _answers(url: str) -> bool:
    try:
        urllib.request.urlopen(url, timeout=5).close()
    except OSError:
        return False
    return True


def _get(url: str) -> Any:
    with urllib.request.urlopen(url, timeout=30) as answer:
        return json.load(answer)
