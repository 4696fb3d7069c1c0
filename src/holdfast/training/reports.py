"""Metrics that are reported beside the steps, and whether one of them is among the best."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from holdfast.domain.keep_rules import KeepRule, is_improvement
from holdfast.frameworks import registry


class Reports:
    """What `report` was given and no checkpoint holds yet.

    Parameters
    ----------
    keep : KeepRule
        Says which metric decides what is best.
    warn : callable

    Attributes
    ----------
    unsaved : bool
        Something was reported since the last save.
    improved : bool
        The monitored metric was among the best, and that state is not saved yet.
    monitored : list[float]
        Its values so far.
    """

    def __init__(self, keep: KeepRule, warn: Callable[[str], None]) -> None:
        self._keep = keep
        self._warn = warn
        self._in_turn: dict[str, Any] = {}
        self._between_turns: dict[str, Any] = {}
        self._told_of_lost = False
        self.unsaved = False
        self.improved = False
        self.monitored: list[float] = []

    @property
    def metrics(self) -> dict[str, Any]:
        """All that belongs to the state as it is now."""
        return self._in_turn | self._between_turns

    def add(self, metrics: Mapping[str, Any], *, between_turns: bool) -> None:
        """Attach metrics to the state just evaluated."""
        reports = self._between_turns if between_turns else self._in_turn
        reports |= {name: detached(value) for name, value in metrics.items()}
        self.unsaved = True
        keep = self._keep
        if keep.best and keep.monitor in metrics:
            value = registry.scalar(metrics[keep.monitor], keep.monitor)
            self.improved = self.improved or is_improvement(value, self.monitored, keep.mode, keep.best)
            self.monitored.append(value)

    def before_step(self, *, own_loop: bool) -> None:
        """A step is about to be counted; in a loop of the user's own, reports come before it."""
        if self._between_turns and self.unsaved and not own_loop:
            self._tell_of_lost()
        self._in_turn, self._between_turns = (self._between_turns if own_loop else {}), {}
        self.improved = self.improved and own_loop

    def after_step(self, *, own_loop: bool) -> None:
        self.improved = self.improved and not own_loop

    def _tell_of_lost(self) -> None:
        if not self._told_of_lost:
            self._warn(
                f"{', '.join(self._between_turns)}, reported outside the loops, went into no checkpoint: "
                "iterate over epochs(), or call save() after report()."
            )
        self._told_of_lost = True


def detached(value: Any) -> Any:
    """A tensor without its graph, which would otherwise live until the next save."""
    return value.detach() if hasattr(value, "detach") else value
