"""How tables look."""

from __future__ import annotations

from rich import box
from rich.table import Table


def table(title: str, *columns: str) -> Table:
    made = Table(title=title, box=box.SIMPLE_HEAD, title_justify="left", title_style="bold")
    for number, column in enumerate(columns):
        made.add_column(column, justify="right" if number else "left", no_wrap=True)
    return made


def seconds_text(seconds: float) -> str:
    return f"{seconds * 1e3:.{int(abs(seconds) < 0.01)}f} ms" if seconds < 0.2 else f"{seconds:.2f} s"
