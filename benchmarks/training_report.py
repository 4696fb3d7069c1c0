"""The tables of training while it is saved."""

from __future__ import annotations

from typing import Any

from rich.console import Console
from rich.table import Table
from tables import seconds_text, table
from training_figures import EVERY, RARELY


def print_training(console: Console, size: str, found: dict[str, Any]) -> None:
    console.print(_stalls(size, found))
    console.print(_throughput(size, found))
    for name, why in found["failed"].items():
        console.print(f"{name} does not work here: {why}", markup=False)
    console.print(_relaunch(size, found["relaunch"]), soft_wrap=True)


def _stalls(size: str, found: dict[str, Any]) -> Table:
    title = f"Training, {size}: a step takes {seconds_text(found['step'])} without saving"
    made = table(title, "", "in calls", "stall p50", "p99", "first", "durable", "x limit")
    limit = found["limit"]
    made.add_row("limit (memcpy; O_DIRECT)", "", seconds_text(limit["memcpy"]), "", "", *_written(limit))
    for name, one in found["ways"].items():
        lost = (one[kind] for kind in ("inside", "stall", "stall_p99", "first_stall", "durable"))
        style = "bold" if name.startswith("holdfast") else None
        made.add_row(name, *map(seconds_text, lost), f"{one['durable_ratio']:.2f}", style=style)
    saves = min(one["saves"] for one in found["ways"].values())
    made.caption = f"{saves} saves of each way; a stall below zero is the scatter of steps"
    return made


def _written(limit: dict[str, float]) -> tuple[str, str]:
    return seconds_text(limit["write"]), "1.00"


def _throughput(size: str, found: dict[str, Any]) -> Table:
    title = f"Training, {size}: throughput, of that without saving"
    often, rarely = f"every {EVERY} steps", f"every {RARELY}"
    made = table(title, "", often, "by own steps", rarely, "by own steps")
    for name, one in found["ways"].items():
        kept = (one[kind] for kind in ("often", "often_computed", "rarely", "rarely_computed"))
        cells = ("" if share is None else f"{share:.1%}" for share in kept)
        made.add_row(name, *cells, style="bold" if name.startswith("holdfast") else None)
    made.caption = "by own steps: from what a save cost above the same turn's steps without one"
    return made


def _relaunch(size: str, relaunch: dict[str, float]) -> str:
    told = {name: seconds_text(seconds) for name, seconds in relaunch.items()}
    return (
        f"Killed at {size} just after a save began: {told['kill_to_step']} from SIGKILL to the end of the "
        f"next launch's first step, of which {told['restore']} to restore and {told['step']} the step; "
        f"beside {told['own']} to import and to build the model."
    )
