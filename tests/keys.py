"""Keys for tests: given by the environment, as users give them."""

from __future__ import annotations

import pytest

KEY = "holdfast-key-1-" + "5a" * 32
OTHER_KEY = "holdfast-key-1-" + "c3" * 32
NAMES = [
    f"HOLDFAST_{name}{how}"
    for name in ("KEY", "NEW_KEY", "SIGNING_KEY")
    for how in ("", "_FILE", "_COMMAND", "_SERVICE")
]


def give(patch: pytest.MonkeyPatch, **variables: str) -> None:
    """Let these be the only keys in the environment: ``HOLDFAST_KEY=...``."""
    for name in [*NAMES, "HOLDFAST_SIGNED_BY"]:
        patch.delenv(name, raising=False)
    for name, value in variables.items():
        patch.setenv(name, value)
