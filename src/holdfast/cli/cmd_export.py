"""``holdfast export``: a checkpoint as a file of another program."""

from __future__ import annotations

from typing import Annotated

import typer

from holdfast.cli import output, text
from holdfast.cli.options import AddressArgument, JsonOption, RepositoryOption, find_run, open_repository
from holdfast.cli.options import address as parse_address

EXAMPLES = (
    "holdfast export digits@best best.safetensors --only model",
    "holdfast export digits digits.pt",
    "holdfast export digits@500 step500.pdparams   # and step500.pdopt",
    "holdfast export digits@best ./digits-model/   # Hugging Face style",
)


def command(
    address: AddressArgument,
    path: Annotated[str, typer.Argument(metavar="FILE|FOLDER/", help="What to write; the suffix decides.")],
    *,
    only: Annotated[
        list[str] | None,
        typer.Option("--only", metavar="ENTRY", help="Only this entry; may be repeated.", show_default=False),
    ] = None,
    format: Annotated[
        str | None,
        typer.Option(
            "--format",
            help="torch, safetensors, paddle or huggingface; else the suffix tells.",
            show_default=False,
        ),
    ] = None,
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Replace what is there.")] = False,
    repository: RepositoryOption = None,
    json: JsonOption = False,
) -> None:
    """Write a checkpoint as .pt, .safetensors, .pdparams with .pdopt, or a Hugging Face style folder.

    Every byte is verified, and the file appears whole or not at all. One entry alone is written
    under its own names, as the framework's own loader expects it.
    """
    from holdfast.formats.export import export_checkpoint

    at = parse_address(address)
    run = find_run(open_repository(repository), at.run)
    checkpoint = run.resolve(at.at)
    with output.progress(
        f"Exporting {run.name}@{checkpoint.step}", run.summary(checkpoint).size_bytes
    ) as advance:
        done = export_checkpoint(
            run, checkpoint, path, only=only or None, format=format, overwrite=overwrite, advance=advance
        )
    if json:
        output.print_json(
            {
                "run": run.name,
                "step": checkpoint.step,
                "format": done.format,
                "paths": done.paths,
                "tensors": done.tensors,
                "size_bytes": done.size_bytes,
                "left_out": done.left_out,
            }
        )
        return
    written = f"{text.several(done.tensors, 'tensor')}, {text.size(done.size_bytes)}"
    output.say(f"Wrote {run.name}@{checkpoint.step} to {' and '.join(done.paths)} ({written}).")
    if done.left_out:
        output.say(f"Left out, as the format has no place for it: {', '.join(done.left_out)}.")
