"""``holdfast tag``: give checkpoints names that keep them."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

import typer

from holdfast.cli import output
from holdfast.cli.options import (
    JsonOption,
    MaybeAddress,
    RepositoryOption,
    find_checkpoint,
    find_run,
    find_runs,
    open_repository,
)
from holdfast.cli.table import print_table

if TYPE_CHECKING:
    from holdfast.repository.run import Run

EXAMPLES = (
    "holdfast tag",
    "holdfast tag digits@500 paper",
    "holdfast tag digits@best release",
    "holdfast tag digits paper --delete",
)


def command(
    which: MaybeAddress = None,
    name: Annotated[
        str | None, typer.Argument(metavar="TAG", help="The name to give.", show_default=False)
    ] = None,
    delete: Annotated[bool, typer.Option("--delete", "-d", help="Take the tag away from RUN.")] = False,
    repository: RepositoryOption = None,
    json: JsonOption = False,
) -> None:
    """List tags; or give RUN@AT a tag, moving it if it is taken; or take it away.

    A tagged checkpoint is never removed by any keep rule.
    """
    from holdfast.errors import UsageError
    from holdfast.repository.signatures import check_given

    opened = open_repository(repository)
    if name is None and not delete:
        _list(find_runs(opened, which), json=json)
    elif which is None or name is None:
        raise UsageError("Which tag?", do="For example: holdfast tag digits paper --delete")
    elif delete:
        find_run(opened, which.partition("@")[0]).remove_tag(name)
        output.note(f"{which.partition('@')[0]} has no tag {name} any more; the checkpoint stays.")
    else:
        check_given()  # or the tag would not count
        run, checkpoint = find_checkpoint(opened, which)
        run.set_tag(name, checkpoint)
        output.note(f"{run.name}@{checkpoint.step} is tagged {name}.")


def _list(runs: list[Run], *, json: bool) -> None:
    found = [(run.name, tag, c) for run in runs for tag, c in sorted(run.tags().items())]
    if json:
        told = [
            {"run": n, "tag": t, "address": f"{n}@{t}", "step": c.step, "id": str(c)} for n, t, c in found
        ]
        output.print_json({"tags": told})
    elif found:
        rows = [(n, t, str(c.step)) for n, t, c in found]
        print_table(("run", "tag", "step>"), rows, folding=("run", "tag"))
    else:
        output.say("There are no tags.")
