"""What a program above decides in place of the script: where to resume, where and when to save.

Settings are arguments of the Checkpointer; this is for `holdfast run`, `holdfast prove` and
`holdfast drill`, which start scripts that they must not change.
"""

from __future__ import annotations

import os
from collections.abc import Mapping

import msgspec

from holdfast.domain.mirrors import Mirror
from holdfast.errors import UsageError
from holdfast.training.arguments import check_mirrors

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
        The step to go on from, once; nothing is rejected.
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
