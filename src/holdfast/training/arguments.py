"""Arguments of the wrong kind, refused where they are given instead of where they first hurt."""

from __future__ import annotations

import math

from holdfast.errors import UsageError

_LARGEST_STEP = 10**18 - 1
"""As many digits as names of checkpoints have."""


def check_state(state: object) -> None:
    """Refuse a training state that is no dict, such as a bare model."""
    if not isinstance(state, dict):
        raise UsageError(
            f"The state is a {type(state).__name__}, not a dict.",
            do='Give every object by a name: {"model": model, "optimizer": optimizer}.',
        )


def check_step(step: object) -> None:
    """Refuse what cannot be the number of a step."""
    if isinstance(step, bool) or not isinstance(step, int) or not 0 <= step <= _LARGEST_STEP:
        raise UsageError(f"step={step!r} is not the number of a step.", do="Write for example step=500.")


def check_grace(seconds: object) -> None:
    """Refuse a time to wait that cannot be waited for."""
    number = seconds if isinstance(seconds, int | float) and not isinstance(seconds, bool) else -1
    if not (math.isfinite(number) and number >= 0):
        raise UsageError(
            f"grace_seconds={seconds!r} is not a number of seconds.", do="Write for example grace_seconds=20."
        )
