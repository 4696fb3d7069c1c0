"""Starting an agent: detached from the trainer, so that it outlives it and never holds it up."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

_ENTRY = """\
import os, sys
if os.fork():  # nobody's child: it leaves no zombie, and its end is nobody's signal
    os._exit(0)
os.chdir("/")
root, *others = sys.argv[2:]
sys.path.insert(0, root)
sys.path.extend(p for p in others if p not in sys.path)
from holdfast.agent.serve import main
main(sys.argv[1])
"""


def spawn_agent(address: bytes) -> subprocess.Popen[bytes]:
    """Start an agent that listens at ``address``; returns the process that started it, ending at once.

    It has a session of its own, no terminal and no inherited descriptors. What it imports are the
    modules of this process: Holdfast from where it was imported here, and nothing from the folder
    of the training script can stand in for a module of Python.

    Raises
    ------
    OSError
        No process can be started, or Python does not know where it lies itself.
    """
    if not sys.executable:
        raise FileNotFoundError("Python does not know where its program lies")
    root = str(Path(__file__).resolve().parents[2])
    paths = [str(Path(p).absolute()) for p in sys.path if p]
    return subprocess.Popen(
        [sys.executable, "-I", "-c", _ENTRY, address.hex(), root, *paths],
        stdin=subprocess.DEVNULL,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        start_new_session=True,
        close_fds=True,
    )
