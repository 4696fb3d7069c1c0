"""``holdfast export``: a checkpoint as a file of another program."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from holdfast.cli import output, text
from holdfast.cli.options import AddressArgument, JsonOption, RepositoryOption, find_run, open_repository
from holdfast.cli.options import address as parse_address

if TYPE_CHECKING:
    from holdfast.formats.export import Exported

EXAMPLES = (
    "holdfast export digits@best best.safetensors --only model",
    "holdfast export digits digits.pt",
    "holdfast export digits@500 step500.pdparams   # and step500.pdopt",
    "holdfast export digits@best ./digits-model/   # Hugging Face style",
    "holdfast export digits@best models/best.safetensors --git-lfs   # in a git work tree",
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
    git_lfs: Annotated[
        bool,
        typer.Option("--git-lfs", help="Into a git work tree: see that Git LFS tracks it, and stage it."),
    ] = False,
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
    if git_lfs:
        _check_tracked(path, format)
    with output.progress(
        f"Exporting {run.name}@{checkpoint.step}", run.summary(checkpoint).size_bytes
    ) as advance:
        done = export_checkpoint(
            run, checkpoint, path, only=only or None, format=format, overwrite=overwrite, advance=advance
        )
    staged = _staged(done.paths) if git_lfs else None
    if json:
        _print_json(run.name, checkpoint.step, done, staged)
    else:
        _say(f"{run.name}@{checkpoint.step}", done, staged)


def _print_json(run: str, step: int, done: Exported, staged: dict[str, str] | None) -> None:
    told = {
        "run": run,
        "step": step,
        "format": done.format,
        "paths": done.paths,
        "tensors": done.tensors,
        "size_bytes": done.size_bytes,
        "left_out": done.left_out,
    }
    output.print_json(told if staged is None else told | {"staged": staged})


def _say(what: str, done: Exported, staged: dict[str, str] | None) -> None:
    written = f"{text.several(done.tensors, 'tensor')}, {text.size(done.size_bytes)}"
    output.say(f"Wrote {what} to {' and '.join(done.paths)} ({written}).")
    if done.left_out:
        output.say(f"Left out, as the format has no place for it: {', '.join(done.left_out)}.")
    if staged is not None:
        output.say(f"Staged for Git LFS: {', '.join(sorted(staged))}.")


def _check_tracked(path: str, format: str | None) -> None:
    from holdfast.formats.export import format_of
    from holdfast.formats.huggingface import WEIGHTS
    from holdfast.integrations.git_lfs import check_tracked

    target = Path(path)
    chosen = format_of(path, format)
    if chosen == "huggingface":
        check_tracked(target, [WEIGHTS])
    else:
        pair = [target.with_suffix(".pdopt").name] if chosen == "paddle" else []
        check_tracked(target.parent, [target.name, *pair])


def _staged(paths: list[str]) -> dict[str, str]:
    """What was written, staged: SHA-256 of each file of weights by its path."""
    from holdfast.integrations.git_lfs import stage, stage_plain

    files = [f for p in map(Path, paths) for f in (sorted(p.iterdir()) if p.is_dir() else [p])]
    for file in (f for f in files if f.suffix == ".json"):
        stage_plain(file)
    return {str(file): stage(file) for file in files if file.suffix != ".json"}
