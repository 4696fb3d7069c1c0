"""A worker in which nothing ends, not even by pytest-timeout, is aborted; what it was at is told.

A test that waits in C, or is stopped, or whose clean-up hangs, hears no alarm: the suite would
stand still, and nobody would know for which test.
"""

from __future__ import annotations

import os
import signal
import sys
import threading
import time
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest

SILENT_SECONDS = float(os.environ.get("HOLDFAST_TESTS_SILENT_SECONDS", "720"))
"""Longer than any test may take."""


class Watchdog:
    """Listens to the workers of pytest-xdist, in the process that leads them."""

    def __init__(self, session: Any) -> None:
        self._session = session
        self._heard: dict[Any, float] = {}
        threading.Thread(target=self._watch, daemon=True).start()

    @pytest.hookimpl(optionalhook=True)
    def pytest_testnodeready(self, node: Any) -> None:
        self._heard[node] = time.monotonic()

    @pytest.hookimpl(optionalhook=True)
    def pytest_testnodedown(self, node: Any) -> None:
        self._heard.pop(node, None)

    def pytest_runtest_logreport(self, report: Any) -> None:
        self._heard[report.node] = time.monotonic()

    def _watch(self) -> None:
        while True:
            time.sleep(SILENT_SECONDS / 50)
            waiting = getattr(self._session.sched, "node2pending", {})
            since = {node: at for node, at in list(self._heard.items()) if waiting.get(node)}
            silent = min(since, key=since.__getitem__, default=None)
            if silent is not None and time.monotonic() - since[silent] > SILENT_SECONDS:
                _abort(silent.gateway._rinfo().pid)
                time.sleep(SILENT_SECONDS / 10)  # the others may have waited for it


def _abort(pid: int) -> None:
    """SIGABRT has the stack of each thread printed; one that is stopped hears it once it goes on."""
    with suppress(OSError):
        state = next(x for x in Path(f"/proc/{pid}/status").read_text().splitlines() if x.startswith("State"))
        print(
            f"\nA worker, process {pid}, has been silent for {SILENT_SECONDS:g} s. {state}", file=sys.stderr
        )
        os.kill(pid, signal.SIGABRT)
        os.kill(pid, signal.SIGCONT)


def watch(config: pytest.Config) -> None:
    leader = config.pluginmanager.getplugin("dsession")
    if leader is not None:
        config.pluginmanager.register(Watchdog(leader))
