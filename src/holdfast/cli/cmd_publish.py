"""``holdfast publish``: a plain file that is kept what a checkpoint is."""

from __future__ import annotations

from typing import Annotated

import typer

from holdfast.cli import output
from holdfast.cli.options import AddressArgument, JsonOption, RepositoryOption, find_run, open_repository
from holdfast.cli.options import address as parse_address

EXAMPLES = (
    "holdfast publish digits@best out/best.safetensors",
    "holdfast publish digits@latest ./digits-model/   # Hugging Face style",
)


def command(
    address: AddressArgument,
    path: Annotated[str, typer.Argument(metavar="FILE|FOLDER/", help="What to keep; the suffix decides.")],
    *,
    repository: RepositoryOption = None,
    json: JsonOption = False,
) -> None:
    """Make a plain file the model of a checkpoint, as 'holdfast export' writes it, unless it is that already.

    It is replaced as a whole; killed at any moment, the file before is whole. Of several that write
    it at one time, none puts an older checkpoint in the place of a newer one. A Checkpointer with
    publish= does the same after each save.
    """
    from holdfast.formats.publishing import publish

    at = parse_address(address)
    run = find_run(open_repository(repository), at.run)
    done = publish(run, at.at, path)
    if json:
        output.print_json(
            {
                "run": run.name,
                "step": done.checkpoint.step,
                "path": done.path,
                "is_new": done.is_new,
                "is_lost": done.is_lost,
            }
        )
    elif done.is_new:
        output.say(f"Published {run.name}@{done.checkpoint.step} as {done.path}.")
    elif done.is_lost:
        what = f"{done.path} stays {run.name}@{done.checkpoint.step}"
        output.say(f"{what}: that is not here any more, and all that are here are worse.")
    else:
        output.say(f"{done.path} is {run.name}@{done.checkpoint.step} already.")
