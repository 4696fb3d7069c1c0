"""The table that a run prints."""

from __future__ import annotations

from typing import Any

from figures import TARGETS
from rich.console import Console
from rich.table import Table
from tables import seconds_text as _s
from tables import table as _table
from training_report import print_training, recoveries


def print_report(results: dict[str, Any]) -> None:
    console = Console(width=max(Console().width, 100))
    for framework, found in results.get("figures", {}).items():
        console.print(_contest(framework, found))
    if "memory" in results:
        console.print(_memory(results["memory"]))
    for size, found in results.get("training", {}).items():
        print_training(console, size, found)
    for size, one in results.get("recovery", {}).items():
        console.print(recoveries(size, one))
    if "small" in results:
        console.print(_small(results["small"]))


def _contest(framework: str, found: dict[str, Any]) -> Table:
    title = f"{framework}: {found['state_bytes'] / 1e9:.2f} GB in {found['tensors']} tensors (medians)"
    table = _table(title, "", "save returns", "durable", "x limit", "load", "x limit", "verified")
    limit = found["limit"]
    table.add_row("limit (O_DIRECT)", "", _s(limit["write"]), "1.00", _s(limit["read"]), "1.00", "")
    for name, one in found["contenders"].items():
        table.add_row(
            name,
            _s(one["returned"]),
            _s(one["durable"]),
            f"{one['durable_ratio']:.2f}",
            _s(one["load"]),
            f"{one['load_ratio']:.2f}",
            "yes" if name == "holdfast" else "no",
            style="bold" if name == "holdfast" else None,
        )
    table.caption = (
        f"memcpy of as much: {_s(limit['memcpy'])}; targets: {TARGETS['save']} and {TARGETS['load']}"
    )
    return table


def _memory(memory: dict[str, dict[str, dict[str, float]]]) -> Table:
    table = _table("Peak memory above the live state", "", "save", "load")
    for framework, contenders in memory.items():
        for name, one in contenders.items():
            mib = (f"{one[k] / 2**20:.0f} MiB" for k in ("save_extra_bytes", "load_extra_bytes"))
            table.add_row(f"{framework}: {name}", *mib, style="bold" if name == "holdfast" else None)
    table.caption = "target for a save: 256 MiB"
    return table


def _small(small: dict[str, Any]) -> Table:
    table = _table("Small things", "", "measured", "target")
    table.add_row("import holdfast", _s(small["import_seconds"]), _s(TARGETS["import_seconds"]))
    table.add_row("from holdfast import Checkpointer", _s(small["import_checkpointer_seconds"]), "")
    for name, seconds in small["looks"].items():
        target = TARGETS.get(name)
        named = f"{small['checkpoints']} checkpoints, cold: {name.replace('_', ' ')}"
        table.add_row(named, _s(seconds), _s(target) if target else "")
    return table
