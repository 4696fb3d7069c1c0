"""``holdfast fork``: let a new run begin with a checkpoint of another."""

from __future__ import annotations

from typing import Annotated

import typer

from holdfast.cli import output
from holdfast.cli.options import (
    AddressArgument,
    JsonOption,
    RepositoryOption,
    find_checkpoint,
    open_repository,
)
from holdfast.training.claiming import claimed

EXAMPLES = (
    "holdfast fork digits@500 digits-cosine",
    "holdfast fork digits@best sweep/lr3",
    "holdfast fork digits@warm digits-linear --json",
)


def command(
    which: AddressArgument,
    new: Annotated[str, typer.Argument(metavar="NEW", help="A name that is free.")],
    repository: RepositoryOption = None,
    json: JsonOption = False,
) -> None:
    """Let the new run NEW begin with RUN@AT: its first launch resumes there, exactly.

    No tensor is copied, so it takes no time and no space. The two share nothing else: either may
    go on, be renamed or removed without the other.
    """
    from holdfast.repository.forking import fork

    opened = open_repository(repository)
    run, checkpoint = find_checkpoint(opened, which)
    with claimed(opened.run(new)):
        forked = fork(run, checkpoint, new)
    if json:
        source = {"run": run.name, "step": checkpoint.step, "parent": str(checkpoint)}
        output.print_json({**source, "new": new, "id": str(forked.id)})
        return
    output.note(f"{new} begins at {run.name}@{checkpoint.step}; launch it with that name.")
