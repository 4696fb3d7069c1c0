"""What 'prove' and 'drill' share: where they work, and how they tell a difference."""

from __future__ import annotations

import shutil
import signal
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from holdfast.cli import output

if TYPE_CHECKING:
    from holdfast.drill.comparing import Difference

FolderOption = Annotated[
    Path | None,
    typer.Option(
        "--folder",
        metavar="FOLDER",
        help="Save and print there, and leave it; must not exist.",
        show_default=False,
    ),
]
PatienceOption = Annotated[
    float,
    typer.Option("--patience", metavar="SECONDS", min=1, help="Give up after so long without progress."),
]
_FEW = 5


@contextmanager
def scratch(folder: Path | None, verb: str) -> Iterator[Path]:
    """The folder that was named, which is made and stays; else one for as long as this lasts."""
    from holdfast.errors import UsageError

    if folder is not None:
        try:
            folder.mkdir(parents=True)
        except FileExistsError:
            raise UsageError(f"{folder} is there already.", do="Name a folder that is not.") from None
        yield folder.absolute()
        return
    made = Path(tempfile.mkdtemp(prefix=f"holdfast-{verb}-"))
    try:
        yield made
    finally:
        shutil.rmtree(made, ignore_errors=True)


def end_well() -> None:
    """Asked to end, or with the terminal gone, mend what was done, and end what was started."""
    for number in (signal.SIGTERM, signal.SIGHUP):
        if signal.getsignal(number) is not signal.SIG_IGN:  # as below nohup
            signal.signal(number, lambda heard, _: sys.exit(128 + heard))


def tell_difference(found: Difference) -> None:
    """Say at which step which names differ."""
    after = f", which was made after a resume from step {found.resumed}" if found.resumed is not None else ""
    output.say(f"First difference: step {found.step} of the run {found.run}{after}.")
    parts = (
        ("tensors", found.tensors),
        ("values", found.values),
        ("random generators", found.rng),
        ("position in the data", found.position),
        ("metrics", found.metrics),
    )
    for name, names in parts:
        if names:
            more = f" and {len(names) - _FEW} more" if len(names) > _FEW else ""
            output.say(f"  {name}: {', '.join(names[:_FEW])}{more}")
