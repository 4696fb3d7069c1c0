"""The table that a run prints."""

from __future__ import annotations

from typing import Any

from figures import TARGETS
from rich import box
from rich.console import Console
from rich.table import Table


def print_report(results: dict[str, Any]) -> None:
    console = Console(width=max(Console().width, 100))
    for framework, found in results.get("figures", {}).items():
        console.print(_contest(framework, found))
    if "memory" in results:
        console.print(_memory(results["memory"]))
    if "small" in results:
        console.print(_small(results["small"]))


def _table(title: str, *columns: str) -> Table:
    table = Table(title=title, box=box.SIMPLE_HEAD, title_justify="left", title_style="bold")
    for number, column in enumerate(columns):
        table.add_column(column, justify="right" if number else "left", no_wrap=True)
    return table


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


def _s(seconds: float) -> str:
    return f"{seconds * 1e3:.0f} ms" if seconds < 0.2 else f"{seconds:.2f} s"
