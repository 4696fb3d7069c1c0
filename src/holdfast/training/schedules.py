"""The learning rates of a live state, looked at between two steps: a few attributes, no tensor."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from holdfast.frameworks import registry
from holdfast.training.leaves import leaves

Rates = list[float]


class Schedules:
    """Remembers the rates that optimizers had when they were last looked at."""

    def __init__(self) -> None:
        self._optimizers: list[Any] = []
        self._seen: Rates = []

    def begin(self, state: Mapping[str, Any]) -> None:
        """Look at the optimizers that the state holds now."""
        self._optimizers = [value for value in leaves(dict(state)) if _rates(value)]
        self._seen = self._now()

    def look(self) -> tuple[Rates, Rates]:
        """The rates as they were, and as they are."""
        before, self._seen = self._seen, self._now()
        return before, self._seen

    def _now(self) -> Rates:
        return [rate for optimizer in self._optimizers for rate in _rates(optimizer)]


def _rates(value: object) -> Rates:
    return [rate for framework in registry.active() for rate in framework.learning_rates(value)]
