"""``holdfast import``: a file of another program as the first checkpoint of a run, a folder as a run."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from holdfast.cli import output, text
from holdfast.cli.options import JsonOption, RepositoryOption, place_of

if TYPE_CHECKING:
    from holdfast.formats.foreign import Options
    from holdfast.formats.importing import Imported
    from holdfast.formats.series import Series
    from holdfast.repository.repository import Repository

EXAMPLES = (
    "holdfast import ./trainer-output/ digits   # all of its checkpoint-N",
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
    """Make another program's file the first checkpoint of a new run, or a folder of checkpoints a run.

    Files of PyTorch, Lightning, Paddle, Hugging Face and torch.distributed.checkpoint; nothing in one is
    ever executed: what only running code could build is refused. Of a folder each checkpoint is the
    parent of the next; what cannot be read is named, and the rest imported. Imported again, what is new
    is added. Creates the repository if there is none.
    """
    from holdfast.errors import UsageError
    from holdfast.formats.foreign import Options
    from holdfast.formats.sources import holds_several
    from holdfast.repository.repository import Repository
    from holdfast.storage.urls import open_storage
    from holdfast.training.claiming import claimed

    source = Path(path)
    several = holds_several(source)
    if several and step is not None:
        raise UsageError(
            f"{source} is a folder of checkpoints, which have steps of their own.", do="Omit --step."
        )
    options = Options(model=model, optimizer=optimizer, framework=framework)
    opened = Repository.create(open_storage(place_of(repository), create=True))
    with claimed(opened.run(run)):
        if several:
            _import_several(opened, run, source, only or None, options, json=json)
        else:
            _import_one(opened, run, source, step, only or None, options, json=json)


def _import_one(
    opened: Repository,
    run: str,
    source: Path,
    step: int | None,
    only: list[str] | None,
    options: Options,
    *,
    json: bool,
) -> None:
    from holdfast.formats.importing import import_checkpoint

    with output.progress(f"Importing {source.name}", _size_bytes(source)) as advance:
        done = import_checkpoint(opened, run, source, step=step, only=only, options=options, advance=advance)
    _tell(run, source, done, json=json)


def _import_several(
    opened: Repository, run: str, source: Path, only: list[str] | None, options: Options, *, json: bool
) -> None:
    from holdfast.formats.series import import_folder
    from holdfast.formats.sources import members

    size_bytes = sum(_size_bytes(each) for each in members(source))
    with output.progress(f"Importing {source.name}", size_bytes) as advance:
        taken = import_folder(opened, run, source, only=only, options=options, advance=advance)
    _tell_series(run, source, taken, json=json)


def _tell(run: str, source: Path, done: Imported, *, json: bool) -> None:
    if json:
        output.print_json({"run": run, **_told(done)})
        return
    output.say(f"Imported {source.name} as {run}@{done.checkpoint.step}: {_held(done)}.")
    if done.left_out:
        output.say(f"Left out, as it cannot be taken whole: {', '.join(done.left_out)}.")


def _tell_series(run: str, source: Path, taken: Series, *, json: bool) -> None:
    if json:
        checkpoints = [
            {"source": done.source, "kind": done.checkpoint.kind, **_told(done)} for done in taken.imported
        ]
        failed = {name: str(error) for name, error in taken.failed.items()}
        output.print_json({"run": run, "checkpoints": checkpoints, "known": taken.known, "failed": failed})
    else:
        _say_series(run, source, taken)
    if taken.failed:
        raise typer.Exit(max(error.exit_code for error in taken.failed.values()))


def _say_series(run: str, source: Path, taken: Series) -> None:
    for done in taken.imported:
        only_model = ", model only" if done.checkpoint.kind == "thin" else ""
        output.say(f"Imported {done.source} as {run}@{done.checkpoint.step}{only_model}: {_held(done)}.")
    left_out = sorted({name for done in taken.imported for name in done.left_out})
    if left_out:
        output.say(f"Left out, as it cannot be taken whole: {', '.join(left_out)}.")
    if taken.known:
        output.say(f"Imported before: {', '.join(taken.known)}.")
    for name, error in taken.failed.items():
        output.note(f"{name} was not imported: {error}")
    if not taken.imported and not taken.failed:
        output.say(f"Nothing in {source.name} is new.")


def _told(done: Imported) -> dict[str, Any]:
    return {
        "step": done.checkpoint.step,
        "checkpoint": str(done.checkpoint),
        "entries": done.entries,
        "tensors": done.tensors,
        "size_bytes": done.size_bytes,
        "left_out": done.left_out,
    }


def _held(done: Imported) -> str:
    tensors = text.several(done.tensors, "tensor")
    return f"{', '.join(done.entries)} ({tensors}, {text.size(done.size_bytes)})"


def _size_bytes(path: Path) -> int:
    files = list(path.iterdir()) if path.is_dir() else [path]
    return sum(file.stat().st_size for file in files if file.is_file())
