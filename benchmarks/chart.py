"""The chart of a run, as PNG and SVG."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import matplotlib

matplotlib.use("agg")
import matplotlib.pyplot as plt

OURS, THEIRS, LIMIT, QUICK = "#1b6ca8", "#b9bec6", "#e07a3f", "#dfe2e7"
_TITLES = {"torch": "PyTorch", "paddle": "PaddlePaddle"}


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
        title = f"{_TITLES[framework]}, {size}"
        _bars(left, f"{title}\nsave until durable", found, "durable", "write")
        _bars(right, "\nload (holdfast: verified)", found, "load", "read", named=False)
    drawn.tight_layout()
    paths = [folder / "benchmark.png", folder / "benchmark.svg"]
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
