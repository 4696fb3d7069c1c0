"""The tables of a run: on a terminal, and as the documentation quotes them.

``python storing_report.py RESULTS.json`` prints the latter.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from rich.console import Console
from tables import seconds_text, table

COLUMNS = (
    *("stored", "ratio", "CPU s/GB", "compact, CPU s/GB", "durable"),
    *("restore newest", "oldest"),
)
TARGET_COLUMNS = ("what", "target", "measured", "met")
Row = tuple[str, ...]


def print_report(results: dict[str, Any]) -> None:
    console = Console(width=max(Console().width, 110))
    for name, found in results["figures"].items():
        _print(console, title(name, found), COLUMNS, rows(found))
    _print(console, "Targets", TARGET_COLUMNS, target_rows(results["targets"]))


def _print(console: Console, named: str, columns: Row, lines: Iterator[Row]) -> None:
    made = table(named, "", *columns)
    for first, *cells in lines:
        made.add_row(first, *cells, style="bold" if first.startswith("holdfast") else None)
    console.print(made)


def title(name: str, found: dict[str, Any]) -> str:
    each = f"{found['state_bytes'] / 1e6:.1f} MB in {found['tensors']:,} tensors"
    return f"{name}: {found['count']} checkpoints of {each}"


def rows(found: dict[str, Any]) -> Iterator[Row]:
    for name, one in found["ways"].items():
        ratio = "" if one["ratio"] is None else f"{one['ratio']:.2f}"
        compact = one["compact_cpu_seconds_per_gb"]
        yield (
            name,
            f"{one['stored_bytes'] / 1e6:.1f} MB",
            ratio,
            f"{one['save_cpu_seconds_per_gb']:.1f}",
            f"{compact:.1f}" if compact else "",
            *(seconds_text(one[what]) for what in ("durable", "restore_newest", "restore_oldest")),
        )


def target_rows(targets: list[dict[str, Any]]) -> Iterator[Row]:
    for one in targets:
        met = "yes" if one["met"] else "no"
        yield one["trajectory"], one["what"], one["target"], f"{one['measured']:.4g}", met


def ratio_rows(figures: dict[str, Any]) -> Iterator[Row]:
    """How many times the bytes of torch.save are those of each way, for each trajectory."""
    names = dict.fromkeys(way for found in figures.values() for way in found["ways"])
    for way in names:
        ratios = (found["ways"].get(way, {}).get("ratio") for found in figures.values())
        yield way, *("" if ratio is None else f"{ratio:.2f}" for ratio in ratios)


def markdown(results: dict[str, Any]) -> Iterator[str]:
    """Ratios of all, costs of the first trajectory, targets."""
    figures = results["figures"]
    name, first = next(iter(figures.items()))
    yield from _markdown("ratio to torch.save", tuple(figures), ratio_rows(figures))
    yield from _markdown(title(name, first), COLUMNS, rows(first))
    yield from _markdown("", TARGET_COLUMNS, target_rows(results["targets"]))


def _markdown(corner: str, columns: Row, lines: Iterator[Row]) -> Iterator[str]:
    yield _line((corner, *columns))
    yield _line(("---", *("---:" for _ in columns)))
    for first, *cells in lines:
        yield _line((f"**{first}**" if first.startswith("holdfast") else first, *cells))
    yield ""


def _line(cells: Row) -> str:
    return f"| {' | '.join(cells)} |"


if __name__ == "__main__":
    for line in markdown(json.loads(Path(sys.argv[1]).read_text())):
        print(line)
