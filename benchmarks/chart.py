"""The chart of a run, as PNG and SVG."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import matplotlib

matplotlib.use("agg")
import matplotlib.pyplot as plt
from training_report import TITLES

OURS, THEIRS, LIMIT, QUICK = "#1b6ca8", "#b9bec6", "#e07a3f", "#dfe2e7"
_LEGENDS = {
    "stall": "seconds: bar p50, line to p99; orange: memcpy of as much",
    "durable": "seconds, median; orange: O_DIRECT write of as much",
    "often_computed": "of that of the same turn's steps without saving; orange: all of it",
}
_PAPER = {"facecolor": "white", "edgecolor": "none", "pad": 1}
_FRAMEWORKS = {"torch": "PyTorch", "paddle": "PaddlePaddle"}


def draw(figures: dict[str, Any], folder: Path) -> list[Path]:
    plt.rcParams.update({"font.size": 10, "svg.hashsalt": "holdfast", "font.family": "DejaVu Sans"})
    heights = [len(found["contenders"]) + 1 for found in figures.values()]
    drawn, axes = plt.subplots(
        len(figures),
        2,
        figsize=(11, 1.4 + 0.52 * sum(heights)),
        squeeze=False,
        gridspec_kw={"height_ratios": heights},
    )
    for (left, right), (framework, found) in zip(axes, figures.items(), strict=True):
        size = f"{found['state_bytes'] / 1e9:.1f} GB AdamW state, {found['tensors']} tensors"
        title = f"{_FRAMEWORKS[framework]}, {size}"
        _bars(left, f"{title}\nsave until durable", found, "durable", "write")
        _bars(right, "\nload (holdfast: verified)", found, "load", "read", named=False)
    return written(drawn, folder, "benchmark")


def draw_training(training: dict[str, Any], folder: Path) -> list[Path]:
    """A picture for each size: stalls, durability and throughput, in groups that share a limit."""
    plt.rcParams.update({"font.size": 10, "svg.hashsalt": "holdfast", "font.family": "DejaVu Sans"})
    drawn = {size: found["kinds"] for size, found in training.items() if found["kinds"]}
    return [path for size, kinds in drawn.items() for path in _draw_size(size, kinds, folder)]


def _draw_size(size: str, kinds: dict[str, Any], folder: Path) -> list[Path]:
    rows = sum(len(found["ways"]) + 1 for found in kinds.values())
    drawn, axes = plt.subplots(1, 3, figsize=(15, 1.2 + 0.36 * rows))
    _ways(axes[0], f"{size} of state: stall of training by a save", kinds, "stall", "memcpy")
    _ways(axes[1], "from its beginning until durable", kinds, "durable", "write", named=False)
    _ways(axes[2], "throughput saving every 10 steps", kinds, "often_computed", None, named=False)
    return written(drawn, folder, f"training-{size}")


def _ways(
    axis: Any, title: str, kinds: dict[str, Any], what: str, limit: str | None, *, named: bool = True
) -> None:
    """A row for each way, below a row for what trains; the limit is drawn through its own group."""
    every = [one for found in kinds.values() for one in found["ways"].values()]
    limits = [found["limit"][limit] if limit else 1.0 for found in kinds.values()]
    ends = [max(one[what], one["stall_p99"]) if what == "stall" else one[what] for one in every]
    longest = max(*limits, *ends)
    row, labels = 0, {}
    for (kind, found), best in zip(kinds.items(), limits, strict=True):
        first, labels[row] = row, TITLES[kind]
        for name, one in found["ways"].items():
            row += 1
            labels[row] = name
            _way(axis, row, name, one, what, longest)
        axis.plot([best, best], [first + 0.4, row + 0.5], color=LIMIT, lw=1.5, zorder=0)
        row += 1
    axis.set_yticks([*labels], [*labels.values()] if named else [""] * len(labels))
    for label in axis.get_yticklabels():
        label.set_fontweight("bold" if label.get_text() in TITLES.values() else "normal")
    axis.tick_params(axis="y", length=0)
    axis.set_ylim(row - 0.4, -0.6)
    axis.set_xlim(min(0.0, *(one[what] for one in every)), longest * 1.28)
    axis.set_title(title, loc="left", fontsize=10, fontweight="bold")
    axis.set_xlabel(_LEGENDS[what], fontsize=8)
    axis.spines[["top", "right"]].set_visible(False)


def _way(axis: Any, row: int, name: str, one: dict[str, Any], what: str, longest: float) -> None:
    end = one[what]
    axis.barh(row, end, color=OURS if name.startswith("holdfast") else THEIRS, height=0.68)
    if what == "stall":
        end = max(end, one["stall_p99"])
        axis.plot([one[what], end], [row, row], color="black", lw=1)
    text = f"{one[what]:.1%}" if what.startswith("often") else f"{one[what]:.3f} s"
    axis.text(max(end, 0) + 0.012 * longest, row, text, va="center", fontsize=9, bbox=_PAPER)


def written(drawn: Any, folder: Path, name: str) -> list[Path]:
    drawn.tight_layout()
    paths = [folder / f"{name}.png", folder / f"{name}.svg"]
    for path in paths:
        drawn.savefig(path, dpi=130, metadata={"Date": None} if path.suffix == ".svg" else None)
    plt.close(drawn)
    return paths


def _bars(axis: Any, title: str, found: dict[str, Any], what: str, limit: str, *, named: bool = True) -> None:
    rows = [("limit (O_DIRECT)", found["limit"][limit], 1.0, None)]
    for name, one in found["contenders"].items():
        returned = one["returned"] if what == "durable" else None
        rows.append((name, one[what], one[f"{what}_ratio"], returned))
    longest = max(seconds for _, seconds, _, _ in rows)
    for row, (name, seconds, ratio, returned) in enumerate(rows):
        colour = LIMIT if row == 0 else OURS if name == "holdfast" else THEIRS
        axis.barh(row, seconds, color=colour, height=0.68)
        if returned is not None and seconds - returned > 0.05 * longest:
            axis.plot([returned] * 2, [row - 0.34, row + 0.34], color="black", lw=1.2, ls=":")
            axis.text(returned, row - 0.36, " returns, not yet durable", fontsize=7, va="bottom", ha="left")
        axis.text(seconds + 0.012 * longest, row, f"{seconds:.2f} s  ({ratio:.1f}x)", va="center", fontsize=9)
    axis.set_yticks(range(len(rows)), [name for name, *_ in rows] if named else [""] * len(rows))
    axis.invert_yaxis()
    axis.set_xlim(0, longest * 1.28)
    axis.set_title(title, loc="left", fontsize=10, fontweight="bold")
    axis.set_xlabel("seconds, median (times the limit measured beside it)", fontsize=8)
    axis.spines[["top", "right"]].set_visible(False)
