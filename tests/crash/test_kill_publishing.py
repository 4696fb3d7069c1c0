from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from tracing import SUPPORTED

PROGRAM = Path(__file__).parent.parent / "publish_sweep.py"


@pytest.mark.skipif(not SUPPORTED, reason="the tracer knows Linux on x86-64 only")
@pytest.mark.parametrize("target", ["model.safetensors", "model/"])
def test_killed_at_any_system_call_what_has_the_name_is_whole(tmp_path: Path, target: str) -> None:
    environment = os.environ | {"PYTHONPATH": os.pathsep.join([str(PROGRAM.parent), *sys.path])}
    done = subprocess.run(
        [sys.executable, PROGRAM, tmp_path, target],
        env=environment,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    told = json.loads(done.stdout)
    assert told["seen"] == [1, 2]
    assert told["tried"] > 30
