"""The tables of training while it is saved."""

from __future__ import annotations

from typing import Any

from rich.console import Console
from rich.table import Table
from tables import seconds_text, table
from training_figures import EVERY, KILL_TARGET_SECONDS, RARELY, RECOVERY_TARGET_SECONDS

TITLES = {
    "torch": "PyTorch",
    "lightning": "Lightning's loop",
    "transformers": "Hugging Face's loop",
    "paddle": "PaddlePaddle",
    "jax": "JAX",
}


def print_training(console: Console, size: str, found: dict[str, Any]) -> None:
    for kind, figures in found["kinds"].items():
        title = f"{TITLES[kind]}, {size}"
        console.print(_stalls(title, figures))
        console.print(_throughput(title, figures))
        _remarks(console, figures)
    for kind, why in found["left_out"].items():
        console.print(f"{TITLES[kind]} left out: {why}", markup=False)
    console.print(_relaunches(size, found["relaunch"]))


def _stalls(named: str, found: dict[str, Any]) -> Table:
    title = f"{named}: a step takes {seconds_text(found['step'])} without saving"
    made = table(title, "", "waits p50", "p99", "stall p50", "p99", "first", "durable", "x limit")
    limit = found["limit"]
    made.add_row("limit (memcpy; O_DIRECT)", "", "", seconds_text(limit["memcpy"]), "", "", *_written(limit))
    for name, one in found["ways"].items():
        lost = (one[kind] for kind in ("held", "held_p99", "stall", "stall_p99", "first_stall", "durable"))
        style = "bold" if name.startswith("holdfast") else None
        made.add_row(name, *map(seconds_text, lost), f"{one['durable_ratio']:.2f}", style=style)
    saves = min((one["saves"] for one in found["ways"].values()), default=0)
    made.caption = f"{saves} saves of each way; a stall below zero is the scatter of steps"
    return made


def _written(limit: dict[str, float]) -> tuple[str, str]:
    return seconds_text(limit["write"]), "1.00"


def _throughput(named: str, found: dict[str, Any]) -> Table:
    title = f"{named}: throughput, of that without saving"
    often, rarely = f"every {EVERY} steps", f"every {RARELY}"
    made = table(title, "", often, "by own steps", rarely, "by own steps")
    for name, one in found["ways"].items():
        kept = (one[kind] for kind in ("often", "often_computed", "rarely", "rarely_computed"))
        cells = ("" if share is None else f"{share:.1%}" for share in kept)
        made.add_row(name, *cells, style="bold" if name.startswith("holdfast") else None)
    made.caption = "by own steps: from what a save cost above the same turn's steps without one"
    return made


def markdown(kinds: dict[str, Any]) -> list[str]:
    """The rows of the table of 1.5 GB in docs/benchmarks.md."""
    rows = []
    for kind, found in kinds.items():
        limit = found["limit"]
        rows.append(
            f"| *{TITLES[kind]}, a step of {seconds_text(found['step'])}*: memcpy; bare write "
            f"| {seconds_text(limit['memcpy'])} | | | {seconds_text(limit['write'])} | 1.00 | | |"
        )
        rows += [_row(name, one) for name, one in found["ways"].items()]
    return rows


def _row(name: str, one: dict[str, Any]) -> str:
    shown = f"**{name}**" if name.startswith("holdfast") else name
    lost = (seconds_text(one[part]) for part in ("held", "held_p99", "stall", "durable"))
    kept = (f"{one[part] * 100:.1f} %" for part in ("often_computed", "rarely_computed"))
    ratio = f"{one['durable_ratio']:.2f}"
    return f"| {' | '.join([shown, *lost, ratio, *kept])} |"


def _remarks(console: Console, found: dict[str, Any]) -> None:
    for name, why in found["failed"].items():
        console.print(f"{name} does not work here: {why}", markup=False)
    for name, one in found["ways"].items():
        if one["whole"] is False:
            console.print(f"{name}: its checkpoint is NOT the state of the step that was saved", markup=False)


def _relaunches(size: str, found: dict[str, Any]) -> Table:
    title = f"{size}: killed by SIGKILL and launched again (medians)"
    made = table(title, "", "restore", "limit", "x limit", "target", "entering", "to a step", "usual step")
    for kind, one in found.items():
        cells = (seconds_text(one[name]) for name in ("entered", "kill_to_step", "usual_step"))
        ratios = f"{one['restore_ratio']:.2f}", f"{one['target_ratio']:.1f}"
        name = kind if one["places"] == [kind.split()[0]] else f"{kind} (from {', '.join(one['places'])})"
        made.add_row(name, seconds_text(one["restore"]), seconds_text(one["limit"]), *ratios, *cells)
    own = max(one["own"] for one in found.values())
    made.caption = (
        "limit: memcpy, or a bare read from the disk; entering: all until the first turn; to a step: from "
        f"SIGKILL to the end of a new one, beside {seconds_text(own)} to import and build the model "
        f"(target: {seconds_text(KILL_TARGET_SECONDS)})"
    )
    return made


def recoveries(size: str, found: dict[str, dict[str, float]]) -> Table:
    """From a fault to the next step under supervision."""
    made = table(f"{size}: struck under holdfast run (medians)", "", "found", "ended", "to a step", "slowest")
    for fault, one in found.items():
        made.add_row(fault, *(seconds_text(one[name]) for name in ("found", "ended", "to_step", "slowest")))
    own = max(one["own"] for one in found.values())
    made.caption = (
        f"to a step: from the launch's end to a new step, beside {seconds_text(own)} to import and build the "
        f"model (target: {seconds_text(RECOVERY_TARGET_SECONDS)})"
    )
    return made
