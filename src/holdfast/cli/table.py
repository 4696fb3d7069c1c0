"""Tables for people: ours, because thousands of rows must appear at once."""

from __future__ import annotations

import os
import shutil
import sys
from collections.abc import Iterable, Iterator, Sequence
from itertools import zip_longest

from holdfast.cli.text import clean

_GAP = "  "
_NARROWEST = 8


def print_table(
    columns: Sequence[str], rows: Iterable[Sequence[str]], *, folding: Sequence[str] = (), title: str = ""
) -> None:
    """Print rows under headings.

    Parameters
    ----------
    columns : sequence of str
        Headings; one that ends in ``>`` is aligned to the right.
    rows : iterable
        Cells as text, one for each heading. A column without any text is left out.
    folding : sequence of str
        Headings of the columns that give way where the terminal is narrow.
    title : str
        A line above.
    """
    lines = [[clean(cell) for cell in row] for row in rows]
    kept = [i for i in range(len(columns)) if not lines or any(line[i] for line in lines)]
    headings = [columns[i].removesuffix(">") for i in kept]
    right = [columns[i].endswith(">") for i in kept]
    cells = [[line[i] for i in kept] for line in lines]
    widths = [max(map(_width, column)) for column in zip(headings, *cells, strict=True)]
    _shrink(widths, [name in folding for name in headings], _room())
    bold, plain = ("\x1b[1m", "\x1b[0m") if coloured() else ("", "")
    if title:
        print(clean(title))
    print(f"{bold}{next(_folded(headings, widths, right))}{plain}")
    for line in cells:
        for text in _folded(line, widths, right):
            print(text)


def coloured() -> bool:
    """Whether standard output is a terminal that wants colours."""
    dull = os.environ.get("NO_COLOR") or os.environ.get("TERM") == "dumb"
    return sys.stdout.isatty() and not dull


def _room() -> int | None:
    """Columns to fill; what goes to a file or a pipe is not folded, unless $COLUMNS says so."""
    if sys.stdout.isatty() or os.environ.get("COLUMNS"):
        return shutil.get_terminal_size().columns
    return None


def _width(text: str) -> int:
    if text.isascii():
        return len(text)
    from rich.cells import cell_len

    return cell_len(text)


def _shrink(widths: list[int], gives_way: list[bool], room: int | None) -> None:
    """Take what is too much from the widest columns that give way."""
    if room is None:
        return
    excess = sum(widths) + len(_GAP) * (len(widths) - 1) - room
    for _ in range(excess):
        wide = [i for i, gives in enumerate(gives_way) if gives and widths[i] > _NARROWEST]
        if not wide:
            return
        widths[max(wide, key=lambda i: widths[i])] -= 1


def _folded(cells: Sequence[str], widths: Sequence[int], right: Sequence[bool]) -> Iterator[str]:
    pieces = [_wrapped(cell, width) for cell, width in zip(cells, widths, strict=True)]
    for line in zip_longest(*pieces, fillvalue=""):
        padded = (
            " " * (width - _width(text)) + text if to_right else text + " " * (width - _width(text))
            for text, width, to_right in zip(line, widths, right, strict=True)
        )
        yield _GAP.join(padded).rstrip()


def _wrapped(cell: str, width: int) -> list[str]:
    if _width(cell) <= width:
        return [cell]
    if not cell.isascii():
        from rich.cells import chop_cells

        return chop_cells(cell, width)
    import textwrap

    return textwrap.wrap(cell, width) or [""]
