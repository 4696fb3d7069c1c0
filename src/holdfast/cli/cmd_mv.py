"""``holdfast mv``: give a run another name."""

from __future__ import annotations

from typing import Annotated

import typer

from holdfast.cli import output, text
from holdfast.cli.options import RepositoryOption, RunArgument, open_repository
from holdfast.training.claiming import claimed_whole

EXAMPLES = ("holdfast mv digits digits-old", "holdfast mv lr3 sweep/lr3")


def command(
    run: RunArgument,
    new: Annotated[str, typer.Argument(metavar="NEW", help="A name that is free.")],
    repository: RepositoryOption = None,
) -> None:
    """Rename RUN. A live run is refused; killed half way, the same command finishes it.

    No tensor is copied. What a killed trainer has left in memory becomes durable first. Launch the
    training with the new name afterwards. Signatures are for one name: give the key that signs.
    """
    from holdfast.errors import UsageError
    from holdfast.repository import seen
    from holdfast.repository.moving import move

    if run == new:
        raise UsageError(f"The run is called {run} already.")
    opened = open_repository(repository)
    old, target = opened.run(run), opened.run(new)
    first, second = sorted((old, target), key=lambda r: r.name)  # two moves cannot wait for each other
    with claimed_whole(first), claimed_whole(second):
        moved = move(old, target)
        seen.forget(old)
    again = ", finishing an earlier move" if moved.resumed else ""
    if moved.unsigned:
        output.note(
            f"{text.several(moved.unsigned, 'checkpoint')} not signed any more: no key for that was given."
        )
    output.note(f"{run} is now {new} ({text.several(moved.copied, 'file')} copied{again}).")
