"""Which rank of which launch this process is, by what launchers say in the environment."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Mapping
from contextlib import suppress

import msgspec

from holdfast.errors import HoldfastError, UnsupportedError, UsageError
from holdfast.node.board import NAMES
from holdfast.node.groups import parent, was_given
from holdfast.node.process import ProcessIdentity

_NAMES = (
    ("WORLD_SIZE", "RANK", "LOCAL_WORLD_SIZE"),
    ("PADDLE_TRAINERS_NUM", "PADDLE_TRAINER_ID", "PADDLE_LOCAL_SIZE"),
)
"""Of torchrun and of paddle.distributed.launch."""
_TELL_LAUNCHES_APART = (
    "TORCHELASTIC_RUN_ID",
    "TORCHELASTIC_RESTART_COUNT",
    "MASTER_ADDR",
    "MASTER_PORT",
    "PADDLE_TRAINER_ENDPOINTS",
)


class Place(msgspec.Struct, frozen=True):
    """Which of how many ranks."""

    rank: int = 0
    world_size: int = 1


def place(variables: Mapping[str, str]) -> Place:
    """That of this process.

    Raises
    ------
    UnsupportedError
        The ranks are on several machines.
    UsageError
        What the environment says makes no sense.
    """
    for names in _NAMES:
        size, rank, here = (variables.get(name, "") for name in names)
        if size not in ("", "0", "1"):
            return _checked(size, rank, here, names)
    return Place()


def rank_told(variables: Mapping[str, str]) -> int:
    """The rank of this process; 0 if what the environment says makes no sense."""
    with suppress(HoldfastError):
        return place(variables).rank
    return 0


def _checked(size: str, rank: str, here: str, names: tuple[str, str, str]) -> Place:
    if not (size.isdecimal() and rank.isdecimal() and int(rank) < int(size)):
        raise UsageError(
            f"{names[0]} is {size!r} and {names[1]} is {rank!r}: that is no rank of a training.",
            do="Start it with torchrun or paddle.distributed.launch, or unset both.",
        )
    if here not in ("", size):
        raise UnsupportedError(
            f"This training has {size} ranks and {here} of them on this machine: that cannot be saved.",
            do="Train on one machine for now.",
        )
    return Place(int(rank), int(size))


def launch_name(variables: Mapping[str, str], location: str, run: str) -> str:
    """What the ranks of one launch call the memory that they share for a run, and no other launch does."""
    launcher = ProcessIdentity.of_process(_launcher(variables))
    said = [variables.get(name, "") for name in _TELL_LAUNCHES_APART]
    who = (launcher.boot, launcher.pid_namespace, str(launcher.pid), str(launcher.started_seconds))
    told = [*who, *said]
    digest = hashlib.sha256("\0".join([*told, location, run]).encode()).hexdigest()
    return f"{NAMES}{digest[:24]}"


def _launcher(variables: Mapping[str, str]) -> int:
    """The nearest process above that was not told just this: those between wrap one rank only."""
    told = [(name, variables[name]) for names in _NAMES for name in names if name in variables]
    pid = os.getppid()
    while told and pid > 1 and all(was_given(pid, name, value) for name, value in told):
        pid = parent(pid)  # a job's own RANK, of one of 1, is another thing
    return pid
