"""Starting an agent: detached from the trainer, so that it outlives it and never holds it up."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path

from holdfast.node import pulse
from holdfast.node.eventlog import PLACE_VARIABLE, STANDARD_ERROR

_OF_TRAINERS = (pulse.PLACE_VARIABLE, pulse.RANKS_VARIABLE)
"""By these a supervisor finds what it has to end with a launch."""
_ROOT = Path(__file__).resolve().parents[2]


def spawn_agent(address: bytes, call_off: int, listener: int | None) -> subprocess.Popen[bytes]:
    """Start an agent that listens at ``address``; returns the process that started it, ending at once.

    It has a session of its own, no terminal, one or two inherited descriptors, and needs nothing of the
    training script: no main guard, nothing that can be pickled.

    Parameters
    ----------
    address : bytes
    call_off : int
        Reading end of a pipe that tells it, before anybody has called it, that nobody will.
    listener : int or None
        A socket that listens there already; None: the agent sees to that.

    Raises
    ------
    OSError
        No process can be started, or Python does not know where it lies itself.
    """
    if not sys.executable:
        raise FileNotFoundError("Python does not know where its program lies")
    entry = _ROOT / "holdfast" / "agent" / "__main__.py"
    paths = [str(_ROOT), *(str(Path(p).absolute()) for p in sys.path if p)]
    inherited = [call_off] if listener is None else [call_off, listener]
    words = [address.hex(), str(os.getpid()), ",".join(map(str, inherited))]
    return subprocess.Popen(
        [sys.executable, "-I", str(entry), *words, *paths],
        stdin=subprocess.DEVNULL,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        start_new_session=True,
        pass_fds=inherited,
        env=_findable({name: text for name, text in os.environ.items() if name not in _OF_TRAINERS}),
    )


def _findable(environment: Mapping[str, str]) -> dict[str, str]:
    """With key files and the log by their whole paths: an agent is in another folder."""
    files = {
        name: os.pathsep.join(str(Path(path).expanduser().absolute()) for path in value.split(os.pathsep))
        for name, value in environment.items()
        if name.startswith("HOLDFAST_") and name.endswith("KEY_FILE") and value
    }
    log = environment.get(PLACE_VARIABLE, STANDARD_ERROR)
    placed = {PLACE_VARIABLE: str(Path(log).absolute())} if log not in ("", STANDARD_ERROR) else {}
    return {**environment, **files, **placed}
