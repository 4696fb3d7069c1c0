"""Watches the health of training, and does what the rules say about what it finds."""

from __future__ import annotations

import os
import time
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Any

from holdfast.domain.events import Event, Found
from holdfast.domain.finding_rules import settled
from holdfast.domain.gpus import Gpu, GpuWatches
from holdfast.domain.health import Collectives, Finding, Heights, Pace, Plateau
from holdfast.domain.joining import JOIN_STEPS, TAIL, Trend, seam
from holdfast.domain.usual import ENOUGH
from holdfast.errors import UnhealthyError
from holdfast.frameworks import registry
from holdfast.node.gpus import gpu_figures
from holdfast.training.leaves import leaves
from holdfast.training.pulsing import number_at_hand

GRADIENT = "grad_norm"
"""By this name gradient norms are reported."""
GLANCE_SECONDS = 30.0
"""How often GPUs and collectives are looked at."""


class Health:
    """All that is watched of one attempt.

    Parameters
    ----------
    run_name : str
    rules : mapping
        The action for each kind of finding.
    emit : callable
        Takes every event.
    stop : callable
        Ends the loops, given the reason; may be changed.
    supervised : bool
        Whether somebody starts this training again who knows how to go back.

    Attributes
    ----------
    save_for : str or None
        Why a rule wants a save.
    """

    def __init__(
        self,
        run_name: str,
        rules: Mapping[str, str],
        emit: Callable[[Event], None],
        stop: Callable[[str], None],
        *,
        supervised: bool,
    ) -> None:
        self._run_name = run_name
        self._given = rules
        self._supervised = supervised
        self._rules = settled(rules, goes_back=supervised)
        self._blind = set(rules.values()) == {"ignore"}
        self._joining = 0
        self._trend: Trend | None = None
        self._emit = emit
        self.stop = stop
        self._loss = Heights("loss", "spike")
        self._gradient = Heights("gradient norm", "gradient", not_finite=3)
        self._plateau, self._pace = Plateau(), Pace()
        self._stepped_at: float | None = None
        self._gpus = GpuWatches()
        self._look_at_gpus: Callable[[], list[Gpu]] | None = None
        self._collectives = Collectives()
        self._look_at_collectives: Callable[[], tuple[int, float] | None] | None = None
        self._looked_at = 0.0
        self._found: list[Finding] = []
        self._times: Counter[str] = Counter()
        self.save_for: str | None = None

    def watch(self, devices: Mapping[str, str], state: Mapping[str, Any]) -> None:
        """Look now and then at GPUs, if frameworks have any of these devices on one, and at collectives.

        Parameters
        ----------
        state : mapping
            Live: a data parallel module in it tells what its collectives take.
        """
        values = leaves(state)
        if set(devices.values()) - {"cpu"} and self._rules["gpu"] != "ignore":
            self._look_at_gpus = gpu_figures(os.environ)
        if self._rules["collectives"] != "ignore" and registry.collective_seconds(values) is not None:
            self._look_at_collectives = partial(registry.collective_seconds, values)

    def resumed(self, losses: Sequence[float], *, altered: bool) -> None:
        """The state is that of a checkpoint: its last losses; whether the script has changed values of it."""
        self._loss = Heights("loss", "spike", known=losses)
        self._trend = Trend(losses) if len(losses) >= ENOUGH else None
        self._joining = 0
        self._rules = settled(self._given, goes_back=self._supervised and not altered)

    @property
    def tail(self) -> list[float]:
        """The newest losses, for a checkpoint to record."""
        return self._loss.newest(TAIL)

    def stepped(self, loss: float | None, metrics: Mapping[str, Any]) -> None:
        """A step was counted; its loss, if it is at hand."""
        if self._blind:
            return
        now = time.monotonic()
        if self._stepped_at is not None:
            self.note(self._pace.take(now - self._stepped_at))
        self._stepped_at = now
        if loss is not None:
            self.note(self._joined(loss))
            self.note(self._plateau.take(loss))
        self.reported(metrics)

    def _joined(self, loss: float) -> Finding | None:
        """A rise is another thing right after a restore: from where the losses before it lead."""
        if self._trend is None:
            return self._loss.take(loss)
        self._joining += 1
        finding = self._loss.take(loss, self._trend.expected(self._joining))
        if self._joining == JOIN_STEPS:
            self._trend = None
        return seam(finding) if finding is not None and finding.kind == "spike" else finding

    def reported(self, metrics: Mapping[str, Any]) -> None:
        """Metrics were given; one of them may be the gradient norm."""
        if GRADIENT in metrics and (norm := number_at_hand(metrics[GRADIENT])) is not None:
            self.note(self._gradient.take(norm))

    def act(self, step: int) -> None:
        """Tell of what was found, and do what the rules say.

        Raises
        ------
        UnhealthyError
            The run is to go back.
        """
        self._glance()
        found, self._found = self._found, []
        for finding in found:
            self._act(finding, step)

    def _glance(self) -> None:
        now = time.monotonic()
        if now - self._looked_at < GLANCE_SECONDS:
            return
        self._looked_at = now
        if self._look_at_gpus is not None:
            self._found += self._gpus.take(self._look_at_gpus())
        timed = self._look_at_collectives() if self._look_at_collectives is not None else None
        if timed is not None:
            self.note(self._collectives.take(*timed))

    def _act(self, finding: Finding, step: int) -> None:
        action = self._rules[finding.kind]
        self._tell(finding, step, action)
        if action == "save":
            self.save_for = finding.kind
        elif action == "stop":
            self.stop(f"{finding.kind}: {finding.detail}")
        elif action == "back":
            raise UnhealthyError(
                f"The training of {self._run_name} is not well at step {step}: {finding.detail}.",
                do="Below 'holdfast run' it goes on from an earlier recovery point; without, start it again.",
            )

    def _tell(self, finding: Finding, step: int, action: str) -> None:
        self._times[finding.kind] += 1
        times = self._times[finding.kind]
        if action != "warn" or times & (times - 1) == 0:  # the 1st, 2nd, 4th, 8th ... time
            self._emit(Found(self._run_name, step, finding.kind, finding.detail, action, times))

    def note(self, finding: Finding | None) -> None:
        """Take what was found, if anything, to act on it at the next safe point."""
        if finding is not None and self._rules[finding.kind] != "ignore":
            self._found.append(finding)
