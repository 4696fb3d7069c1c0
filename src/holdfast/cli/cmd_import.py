"""``holdfast import``: a file of another program as the first checkpoint of a run."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from holdfast.cli import output, text
from holdfast.cli.options import JsonOption, RepositoryOption, place_of

EXAMPLES = (
    "holdfast import model.pt pretrained",
    "holdfast import ./bert-base/ bert --as encoder",
    "holdfast import step500.pdparams digits-imported   # and step500.pdopt",
    "holdfast import weights.safetensors vit --step 12000 --framework paddle",
)


def command(
    path: Annotated[str, typer.Argument(metavar="FILE|FOLDER", help="What to read.")],
    run: Annotated[str, typer.Argument(metavar="RUN", help="The run to make.")],
    *,
    step: Annotated[
        int | None,
        typer.Option("--step", min=0, help="Its step; else what the file tells, or 0.", show_default=False),
    ] = None,
    only: Annotated[
        list[str] | None,
        typer.Option("--only", metavar="ENTRY", help="Only this entry; may be repeated.", show_default=False),
    ] = None,
    model: Annotated[
        str, typer.Option("--as", metavar="ENTRY", help="Name of the entry where a file holds one model.")
    ] = "model",
    optimizer: Annotated[
        str, typer.Option("--optimizer", metavar="ENTRY", help="Name of the entry that a .pdopt becomes.")
    ] = "optimizer",
    framework: Annotated[
        str | None,
        typer.Option(
            "--framework",
            help="torch or paddle: whose weights a .safetensors file holds.",
            show_default=False,
        ),
    ] = None,
    repository: RepositoryOption = None,
    json: JsonOption = False,
) -> None:
    """Make a file of PyTorch, Paddle or Hugging Face the first checkpoint of a new run.

    Nothing in the file is ever executed: what only running code could build is refused.
    Creates the repository if there is none.
    """
    from holdfast.formats.importing import Options, import_checkpoint
    from holdfast.repository.repository import Repository
    from holdfast.storage.urls import open_storage

    source = Path(path)
    opened = Repository.create(open_storage(place_of(repository), create=True))
    options = Options(model=model, optimizer=optimizer, framework=framework)
    with output.progress(f"Importing {source.name}", _size_bytes(source)) as advance:
        done = import_checkpoint(
            opened, run, source, step=step, only=only or None, options=options, advance=advance
        )
    if json:
        output.print_json(
            {
                "run": run,
                "step": done.checkpoint.step,
                "checkpoint": str(done.checkpoint),
                "entries": done.entries,
                "tensors": done.tensors,
                "size_bytes": done.size_bytes,
                "left_out": done.left_out,
            }
        )
        return
    held = f"{text.several(done.tensors, 'tensor')}, {text.size(done.size_bytes)}"
    output.say(f"Imported {source.name} as {run}@{done.checkpoint.step}: {', '.join(done.entries)} ({held}).")
    if done.left_out:
        output.say(f"Left out, as the file does not hold it whole: {', '.join(done.left_out)}.")


def _size_bytes(path: Path) -> int:
    files = list(path.iterdir()) if path.is_dir() else [path]
    return sum(file.stat().st_size for file in files if file.is_file())
