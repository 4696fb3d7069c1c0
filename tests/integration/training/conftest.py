"""All ways of saving, for the tests that prove exactness."""

from __future__ import annotations

import os
import signal
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from agents import agents_below
from holdfast.domain import save_rules
from holdfast.node import arena
from holdfast.training import background, fencing, staging


@pytest.fixture(params=["loop", "background", "memory"])
def saving(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[str]:
    """How this test saves; in the background every tensor that may be is fenced, from the first save on."""
    way: str = request.param
    monkeypatch.setenv("HOLDFAST_BACKGROUND", "0" if way == "loop" else "1")
    if way != "loop":
        for module in (arena, staging):
            monkeypatch.setattr(module, "SMALL_BYTES", 1)
        for name in ("torch", "paddle"):
            fenced = sys.modules.get(f"holdfast.frameworks.{name}.fencing")
            if fenced is not None:
                monkeypatch.setattr(fenced, "WORTH_BYTES", 1)
        monkeypatch.setattr(fencing, "CHECKED_SAVES", 0)
    if way == "memory":
        _hold_every_step(monkeypatch)
    yield way
    for agent in agents_below(tmp_path):
        os.kill(agent, signal.SIGKILL)


@pytest.fixture
def held_for_a_while(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[None]:
    """Half a minute is what an agent holds memory for, and none outlives the test."""
    monkeypatch.setenv("HOLDFAST_MEMORY_SECONDS", "30")
    yield
    for agent in agents_below(tmp_path):
        os.kill(agent, signal.SIGKILL)


def _hold_every_step(monkeypatch: pytest.MonkeyPatch) -> None:
    """Whatever the script says; and with an agent that is there before training begins."""
    tiers, start = save_rules.tiers, background.Background._start

    def with_memory(rule: save_rules.SaveRule) -> tuple[save_rules.SaveRule | None, save_rules.SaveRule]:
        return tiers(rule)[0], save_rules.EverySteps(1)

    def awaited(self: background.Background, *arguments: object) -> None:
        start(self, *arguments)  # type: ignore[arg-type]
        assert self._is_linked(20.0)

    monkeypatch.setattr(save_rules, "tiers", with_memory)
    monkeypatch.setattr(background.Background, "_start", awaited)
    monkeypatch.setenv("HOLDFAST_MEMORY_SECONDS", "30")
