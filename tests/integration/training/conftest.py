"""Both ways of saving, for the tests that prove exactness."""

from __future__ import annotations

import sys

import pytest

from holdfast.node import arena
from holdfast.training import fencing, staging


@pytest.fixture(params=["loop", "background"])
def saving(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> str:
    """How this test saves; in the background every tensor that may be is fenced, from the first save on."""
    way: str = request.param
    monkeypatch.setenv("HOLDFAST_BACKGROUND", "1" if way == "background" else "0")
    if way == "background":
        for module in (arena, staging):
            monkeypatch.setattr(module, "SMALL_BYTES", 1)
        for name in ("torch", "paddle"):
            fenced = sys.modules.get(f"holdfast.frameworks.{name}.fencing")
            if fenced is not None:
                monkeypatch.setattr(fenced, "WORTH_BYTES", 1)
        monkeypatch.setattr(fencing, "CHECKED_SAVES", 0)
    return way
