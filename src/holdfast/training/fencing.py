"""Whether tensors are copied behind the fence: as the user says, and as long as it proves safe."""

from __future__ import annotations

import os
from collections.abc import Callable

from holdfast.errors import UsageError
from holdfast.training.staging import Versions

CHECKED_SAVES = 2
"""How many saves of a run are compared before any is trusted to the fence."""
_MODES = ("on", "off", "check")


def chosen_mode() -> str:
    """What ``$HOLDFAST_FENCE`` says.

    Raises
    ------
    UsageError
        It says something else.
    """
    mode = os.environ.get("HOLDFAST_FENCE") or "on"
    if mode not in _MODES:
        raise UsageError(f"HOLDFAST_FENCE={mode} is unknown.", do=f"Use one of: {', '.join(_MODES)}.")
    return mode


class Fencing:
    """The state of trust in the fence.

    Parameters
    ----------
    mode : {"on", "off", "check"}
        Trust it after `CHECKED_SAVES`; never use it; compare at every save.
    warn : callable
    """

    def __init__(self, mode: str, warn: Callable[[str], None]) -> None:
        self._mode = mode
        self._warn = warn
        self._told = True
        self._checked = 0

    @property
    def compares(self) -> bool:
        """Whether the next snapshot is copied at once, and compared with the live state at the fence."""
        return self._mode == "check" or (self._mode == "on" and self._checked < CHECKED_SAVES)

    def usable(self, versions: Versions) -> Versions:
        """What the fence may be used for."""
        return {} if self._mode == "off" else versions

    def judge(self, unchanged: bool, *, guards: bool) -> bool:
        """Take the verdict on a snapshot; returns it. One that failed ends the use of the fence.

        Parameters
        ----------
        guards : bool
            Whether there was anything behind the fence: else the verdict proves nothing.
        """
        self._checked += guards
        if not unchanged and self._mode != "off":
            self._mode, self._told = "off", False
        return unchanged

    def tell(self) -> None:
        """Say that it is not used any more, if that was not said; for the training thread alone."""
        if not self._told:
            self._told = True
            self._warn(
                "parameters change outside of the optimizer's step, so saves copy everything "
                "before training goes on; that takes longer."
            )
