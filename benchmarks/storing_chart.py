"""Charts of a run: how storage grows, and what a ratio costs.

``python storing_chart.py RESULTS.json ... FOLDER`` draws those of several runs together.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import matplotlib.pyplot as plt
from chart import OURS, THEIRS, written

COLUMNS = 3
LIGHT, DARK = "#7fb3dd", "#0b3c61"
_OURS = {"holdfast": LIGHT, "holdfast, compact": OURS, "holdfast, thin, compact": DARK}
_STYLES = ("-", "--", "-.", ":", (0, (5, 1)), (0, (1, 1)), (0, (3, 1, 1, 1)))


def draw(results: dict[str, Any], folder: Path) -> list[Path]:
    plt.rcParams.update({"font.size": 9, "svg.hashsalt": "holdfast", "font.family": "DejaVu Sans"})
    return [
        *_grid(results["raw"], _curves, folder, "storing"),
        *_grid(results["figures"], _bars, folder, "storing-cpu"),
    ]


def _grid(found: dict[str, Any], plot: Any, folder: Path, name: str) -> list[Path]:
    """One picture, with a part for each trajectory."""
    lines = -(-len(found) // COLUMNS)
    drawn, axes = plt.subplots(lines, COLUMNS, figsize=(15, 0.6 + 3.6 * lines), squeeze=False)
    for axis in axes.flat[len(found) :]:
        axis.set_axis_off()
    for axis, (trajectory, one) in zip(axes.flat, found.items(), strict=False):
        plot(axis, one)
        axis.set_title(trajectory, loc="left", fontsize=10, fontweight="bold")
        axis.spines[["top", "right"]].set_visible(False)
    return written(drawn, folder, name)


def _curves(axis: Any, raw: dict[str, Any]) -> None:
    rivals = [name for name in raw["ways"] if name not in _OURS]
    for name, one in raw["ways"].items():
        style = "-" if name in _OURS else _STYLES[rivals.index(name) % len(_STYLES)]
        colour, width = (_OURS[name], 2) if name in _OURS else ("#7d838c", 1)
        megabytes = [size / 1e6 for size in one["stored_bytes"]]
        axis.plot(range(1, raw["count"] + 1), megabytes, label=name, color=colour, lw=width, ls=style)
    axis.set_xlabel("checkpoints", fontsize=8)
    axis.set_ylabel("MB on the disk", fontsize=8)
    axis.set_ylim(bottom=0)
    axis.legend(fontsize=6.5, frameon=False)


def _bars(axis: Any, found: dict[str, Any]) -> None:
    ways = {name: one for name, one in found["ways"].items() if one["ratio_per_cpu_second"] is not None}
    for row, (name, one) in enumerate(ways.items()):
        value = one["ratio_per_cpu_second"]
        axis.barh(row, value, color=_OURS.get(name, THEIRS), height=0.68)
        axis.text(value, row, f" {value:.2f} ({one['ratio']:.2f}x)", va="center", fontsize=7)
    axis.set_yticks(range(len(ways)), [*ways], fontsize=7)
    axis.invert_yaxis()
    axis.margins(x=0.25)
    axis.set_xlabel("ratio to torch.save, per CPU second and GB of state", fontsize=8)


def _together(runs: list[dict[str, Any]]) -> dict[str, Any]:
    return {
        part: {name: one for run in runs for name, one in run[part].items()} for part in ("raw", "figures")
    }


if __name__ == "__main__":
    *paths, folder = map(Path, sys.argv[1:])
    draw(_together([json.loads(path.read_text()) for path in paths]), folder)
