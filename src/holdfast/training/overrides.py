"""What a program above decides in place of the script: where to resume, where and when to save.

Settings are arguments of the Checkpointer; this is for `holdfast run`, `holdfast prove` and
`holdfast drill`, which start scripts that they must not change.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING

import msgspec

from holdfast.domain.mirrors import Mirror
from holdfast.errors import UsageError
from holdfast.training.arguments import check_mirrors

if TYPE_CHECKING:
    from holdfast.repository.run import Run

VARIABLE = "HOLDFAST_OVERRIDES"


class Overrides(msgspec.Struct, frozen=True, forbid_unknown_fields=True, omit_defaults=True):
    """None, or empty: what the script says.

    Attributes
    ----------
    repository : str or None
        Where checkpoints go, whatever the script names; then there is no mirror, and ``resume="auto"``.
    save, keep, on_finding : str or None
        Rules in place of the script's.
    resume : int or None
        The step to go on from, once; nothing is rejected. If it is gone, one near it will do.
    mirror : str or None
        With ``repository``: a mirror, all the same.
    skip : dict[int, int]
        After so many steps pass over so many batches: what comes there breaks training.
    """

    repository: str | None = None
    save: str | None = None
    keep: str | None = None
    on_finding: str | None = None
    resume: int | None = None
    mirror: str | None = None
    skip: dict[int, int] = {}

    def place(self, repository: str | os.PathLike[str] | None) -> str | os.PathLike[str] | None:
        return repository if self.repository is None else self.repository

    def resumed(self, resume: int | str) -> int | str:
        if self.resume is not None:
            return self.resume
        return resume if self.repository is None else "auto"

    def mirrors(self, mirror: object, keep: object) -> tuple[Mirror, ...]:
        if self.repository is None:
            return check_mirrors(mirror, keep)
        return check_mirrors(self.mirror, None)

    def encoded(self) -> str:
        """As it goes into the environment."""
        return msgspec.json.encode(self).decode()


def read(variables: Mapping[str, str]) -> Overrides:
    """What the environment says.

    Raises
    ------
    UsageError
        It is not what a program of Holdfast wrote there.
    """
    text = variables.get(VARIABLE)
    if not text:
        return Overrides()
    try:
        return msgspec.json.decode(text, type=Overrides)
    except msgspec.MsgspecError as error:
        raise UsageError(
            f"{VARIABLE} cannot be understood: {error}.",
            do="It is for programs of Holdfast that start others: unset it.",
        ) from error


def still_there(run: Run, step: int, warn: Callable[[str], None]) -> int:
    """The step to go on from; if it was pruned since, that of the recovery point before it, else the oldest.

    What a killed trainer had staged becomes durable after others looked, and then the keep rule removes more.
    """
    if any(c.step == step and c.kind == "full" for c in run.checkpoints()):
        return step
    left = sorted({c.step for c in run.recovery_points()})
    nearest = max((other for other in left if other < step), default=next(iter(left), step))
    if nearest != step:
        warn(f"step {step} is there no more: {run.name} goes on from step {nearest}.")
    return nearest
