"""Parts of a benchmark in processes of their own: frameworks disturb each other, and memory is counted."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

HERE = Path(__file__).parent
ONE_CORE = {"OMP_NUM_THREADS": "1"}


def in_process(folder: Path, script: str, *arguments: str, extra: list[str] | None = None) -> dict[str, Any]:
    """What a script writes as its result; it is given an empty folder to work in."""
    work, result = folder / "work", folder / "result.json"
    work.mkdir()
    try:
        call(script, *arguments, str(work), str(result), *(extra or []))
        return dict(json.loads(result.read_text()))
    finally:
        shutil.rmtree(work, ignore_errors=True)


def call(script: str, *arguments: str) -> None:
    command = [sys.executable, "-W", "ignore", str(HERE / script), *arguments]
    subprocess.run(command, check=True, env=ONE_CORE | os.environ)
