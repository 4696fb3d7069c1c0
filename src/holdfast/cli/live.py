"""The live view of 'holdfast status --watch'."""

from __future__ import annotations

import math
import sys
import time
from collections import defaultdict, deque
from collections.abc import Callable, Sequence
from contextlib import suppress
from typing import TYPE_CHECKING, Any

from holdfast.cli import text

if TYPE_CHECKING:
    from rich.console import RenderableType

_BARS = "▁▂▃▄▅▆▇█"
_LOSSES = 24
COLUMNS = ("run", "state", "attempt", "step", "loss", "", "on disk", "in memory", "next", "longest save")
Told = dict[str, Any]
"""One run as 'holdfast status --json' has it."""


def refuse_together(json: bool) -> None:
    """Programs follow the log instead.

    Raises
    ------
    UsageError
    """
    from holdfast.errors import UsageError

    if json:
        raise UsageError("--watch is for people.", do="Let programs ask again, or follow the log.")


def show_live(look: Callable[[], Sequence[Told]], interval_seconds: float) -> None:
    """Show what there is, again and again, until Ctrl-C; what is no terminal gets one view after another."""
    from rich.console import Console
    from rich.live import Live

    console, losses = Console(), Losses()
    with suppress(KeyboardInterrupt):
        if not sys.stdout.isatty():
            while True:
                console.print(view(look(), losses))
                time.sleep(interval_seconds)
        with Live(console=console, auto_refresh=False) as live:
            while True:
                live.update(view(look(), losses), refresh=True)
                time.sleep(interval_seconds)


class Losses:
    """The newest losses of each run, as they were seen."""

    def __init__(self) -> None:
        self._seen: dict[str, deque[tuple[int, float]]] = defaultdict(lambda: deque(maxlen=_LOSSES))

    def noted(self, told: Told) -> list[float]:
        """Those of a run, with its present one; from a step that it went back to, later ones are gone."""
        seen, pulse = self._seen[told["run"]], told["pulse"]
        if pulse is not None and pulse["loss"] is not None:
            while seen and seen[-1][0] >= pulse["step"]:
                seen.pop()
            seen.append((pulse["step"], pulse["loss"]))
        return [loss for _, loss in seen]


def view(told: Sequence[Told], losses: Losses) -> RenderableType:
    """All runs as a table."""
    from rich.table import Table
    from rich.text import Text

    if not told:
        return Text(f"{_clock()}  No run is live.")
    table = Table(
        *COLUMNS, caption=f"{_clock()}  Ctrl-C ends this view; trainings go on.", caption_justify="left"
    )
    for one in told:
        table.add_row(*(Text(text.clean(cell)) for cell in cells(one, losses.noted(one))))
    return table


def cells(told: Told, losses: Sequence[float]) -> list[str]:
    """One run as the table has it."""
    pulse, latest, memory = told["pulse"], told["latest"], told["memory"]
    saved = latest["saved_seconds"] if latest is not None else None
    return [
        told["run"],
        pulse["phase"] if pulse is not None else told["state"],
        (told["attempt"] or "-").partition("-")[0].lstrip("0") or "-",
        str(pulse["step"]) if pulse is not None else "-",
        text.number(losses[-1]) if losses else "-",
        sparkline(losses),
        f"step {latest['step']}, {text.age(saved)}" if saved is not None else "-",
        f"step {memory['step']}" if memory is not None and memory["step"] is not None else "-",
        _next(told),
        f"{pulse['longest_save_seconds']:.2f} s" if pulse is not None else "-",
    ]


def _next(told: Told) -> str:
    """When the next checkpoint is due, if it is known and still to come."""
    step, pulse = told["next_step"], told["pulse"]
    if step is None or pulse is None or step <= pulse["step"]:
        return "-"
    return f"in {text.several(step - pulse['step'], 'step')}"


def sparkline(values: Sequence[float]) -> str:
    """Values as bars, from the lowest to the highest of them."""
    finite = [value for value in values if math.isfinite(value)]
    if not finite:
        return ""
    low, span = min(finite), max(finite) - min(finite)
    if not math.isfinite(span) or span == 0:
        return _BARS[0] * len(finite)
    return "".join(_BARS[min(int((value - low) / span * len(_BARS)), len(_BARS) - 1)] for value in finite)


def _clock() -> str:
    return time.strftime("%H:%M:%S")
