"""The probe: a function of the script's own, whose value tells whether a restored state is what it was."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from holdfast.domain.joining import compare_probe, probe_of, tail_of
from holdfast.frameworks import registry
from holdfast.frameworks.rng import capture_rng, restore_rng
from holdfast.training.health import Health
from holdfast.training.restoring import Restored


class Probe:
    """Evaluates the script's function, and leaves random generators as they were.

    Parameters
    ----------
    function : callable or None
    warn : callable
        Told once if the function fails.
    """

    def __init__(self, function: Callable[[], Any] | None, warn: Callable[[str], None]) -> None:
        self._function = function
        self._warn = warn

    def value(self) -> float | None:
        """What it gives now; None without a function, or once it has failed."""
        if self._function is None:
            return None
        before = capture_rng()
        try:
            return registry.scalar(self._function(), "probe")
        except Exception as error:  # whatever the script's function does must not cost a save
            self._function = None
            self._warn(f"the probe failed, and is not asked again: {type(error).__name__}: {error}")
            return None
        finally:
            restore_rng(before)


def rejoin(health: Health, probe: Probe, restored: Restored) -> None:
    """Compare what was restored with what its checkpoint recorded, before training goes on.

    Raises
    ------
    UnhealthyError
        They differ, and the run is to go back.
    """
    training = restored.training
    health.resumed(tail_of(training.get("losses")), altered=restored.altered)
    recorded = probe_of(training.get("probe"))
    again = probe.value() if recorded is not None else None
    if recorded is not None and again is not None:
        health.note(compare_probe(recorded, again, exact=not restored.inexact))
    health.act(restored.id.step)
