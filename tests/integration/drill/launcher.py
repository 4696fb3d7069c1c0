"""Starts a script as two ranks, each in a session of its own, as torchrun does: launcher.py SCRIPT ..."""

from __future__ import annotations

import os
import subprocess
import sys

TOLD = {"WORLD_SIZE": "2", "LOCAL_WORLD_SIZE": "2"}


def begin(rank: int) -> subprocess.Popen[bytes]:
    variables = os.environ | TOLD | {"RANK": str(rank)}
    return subprocess.Popen([sys.executable, *sys.argv[1:]], env=variables, start_new_session=True)


if __name__ == "__main__":
    sys.exit(max(abs(rank.wait()) for rank in [begin(0), begin(1)]))
