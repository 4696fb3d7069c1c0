"""Some seconds of `make torture`."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

PROGRAM = Path(__file__).with_name("torture.py")
SECONDS, SEED = 12, 7


@pytest.mark.timeout(400)
def test_whoever_is_killed_all_is_as_training_makes_it(tmp_path: Path) -> None:
    place = ["--folder", str(tmp_path / "torture")]
    program = [sys.executable, str(PROGRAM), "--seconds", str(SECONDS), "--seed", str(SEED), *place]
    done = subprocess.run(program, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "All as it must be" in done.stdout
    assert not (tmp_path / "torture").exists()
