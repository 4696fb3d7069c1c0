"""The wiring: which faults there are."""

from __future__ import annotations

from collections.abc import Sequence

from holdfast.drill import disk
from holdfast.drill.faults.base import Fault
from holdfast.drill.faults.inside import Hang, NanGradients, OutOfMemory, Segfault
from holdfast.drill.faults.killed import (
    AgentKilled,
    Everything,
    Kill,
    PowerLoss,
    SlowDisk,
    Stop,
    SupervisorKilled,
)
from holdfast.drill.faults.storage import BitRot, FullDisk, LostRemote, TornPack
from holdfast.errors import UsageError

_KINDS = (
    Kill,
    Stop,
    Hang,
    Segfault,
    OutOfMemory,
    FullDisk,
    SlowDisk,
    BitRot,
    TornPack,
    LostRemote,
    AgentKilled,
    SupervisorKilled,
    Everything,
    PowerLoss,
    NanGradients,
)
FAULTS = {kind.name: kind() for kind in _KINDS}
ALWAYS = tuple(name for name in FAULTS if name not in (NanGradients.name, PowerLoss.name))
"""What every script can be put through everywhere: not all have gradients, mounting takes root."""


def chosen(names: str | None) -> Sequence[Fault]:
    """The faults of a list such as ``kill,hang``; by default those for every script.

    Raises
    ------
    UsageError
        There is none of a name.
    UnsupportedError
        One cannot be let happen here.
    """
    words = ALWAYS if names is None else [word.strip() for word in names.split(",") if word.strip()]
    unknown = [word for word in words if word not in FAULTS]
    if unknown or not words:
        what = f"There is no fault {unknown[0]!r}." if unknown else "No fault is named."
        raise UsageError(what, do=f"Choose from: {', '.join(FAULTS)}.")
    faults = [FAULTS[word] for word in dict.fromkeys(words)]
    if any(fault.has_own_disk for fault in faults):
        disk.check()
    return faults
