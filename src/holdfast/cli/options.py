"""Options and arguments that several verbs share, so that they read alike everywhere."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, Annotated, Any

import typer

if TYPE_CHECKING:
    from holdfast.domain.names import Address, CheckpointId
    from holdfast.repository.repository import Repository
    from holdfast.repository.run import Run

DEFAULT_REPOSITORY = "./checkpoints"
REPOSITORY_VARIABLE = "HOLDFAST_REPOSITORY"


def complete_run(ctx: typer.Context, incomplete: str) -> list[str]:
    """Runs of the repository that begin so, for shell completion; no complaint if there is none."""
    from holdfast.errors import HoldfastError

    try:
        runs = open_repository(ctx.params.get("repository")).runs()
    except HoldfastError:
        return []
    return [run.name for run in runs if run.name.startswith(incomplete)]


RepositoryOption = Annotated[
    str | None,
    typer.Option(
        "--repository",
        "-R",
        metavar="PLACE",
        help=f"Folder or URL of the repository; else ${REPOSITORY_VARIABLE}, else {DEFAULT_REPOSITORY}.",
        show_default=False,
    ),
]
JsonOption = Annotated[bool, typer.Option("--json", help="Print JSON for programs instead.")]
YesOption = Annotated[bool, typer.Option("--yes", "-y", help="Do not ask.")]
RunArgument = Annotated[str, typer.Argument(metavar="RUN", help="A run.", autocompletion=complete_run)]
AddressArgument = Annotated[
    str,
    typer.Argument(
        metavar="RUN[@AT]",
        help="A run, or one of its checkpoints: @STEP, @TAG, @best or @latest.",
        autocompletion=complete_run,
    ),
]
MaybeAddress = Annotated[
    str | None,
    typer.Argument(
        metavar="RUN[@AT]",
        help="A run or a pattern such as 'sweep/*', or one checkpoint; else everything.",
        autocompletion=complete_run,
        show_default=False,
    ),
]
MaybeRuns = Annotated[
    str | None,
    typer.Argument(
        metavar="RUN",
        help="A run, or a pattern such as 'sweep/*'; else all runs.",
        autocompletion=complete_run,
        show_default=False,
    ),
]


def place_of(repository: str | None) -> str:
    """Where the repository is: the option, else the environment, else the default folder."""
    return repository or os.environ.get(REPOSITORY_VARIABLE) or DEFAULT_REPOSITORY


def open_repository(repository: str | None) -> Repository:
    """Open the repository that the options name; never creates one."""
    from holdfast.repository.repository import Repository
    from holdfast.storage.urls import open_storage

    return Repository.open(open_storage(place_of(repository)))


def is_pattern(text: str) -> bool:
    return any(mark in text for mark in "*?[")


def find_runs(repository: Repository, text: str | None) -> list[Run]:
    """Runs that a name or pattern means; all without one.

    Raises
    ------
    NotFoundError
        There is no such run.
    """
    from holdfast.errors import NotFoundError

    if text is not None and not is_pattern(text):
        return [find_run(repository, text)]
    runs = repository.runs(text or "*")
    if not runs and text is not None:
        raise NotFoundError(
            f"No run in {repository.storage.location} matches {text!r}.", do="'holdfast ls' lists all runs."
        )
    return runs


def find_run(repository: Repository, name: str) -> Run:
    """One run that has been recorded."""
    from holdfast.errors import NotFoundError

    run = repository.run(name)
    layout = run.layout
    folders = (layout.attempts, layout.checkpoints)
    if all(next(iter(run.storage.list(folder)), None) is None for folder in folders):
        raise NotFoundError(
            f"There is no run {name!r} in {repository.storage.location}.", do="'holdfast ls' lists all runs."
        )
    return run


def address(text: str) -> Address:
    from holdfast.domain.names import Address

    return Address.parse(text)


def split_mode(text: str, default: str) -> tuple[str, str]:
    """A metric and how to judge it: ``val_loss`` or ``accuracy max``."""
    name, _, mode = text.strip().rpartition(" ")
    return (name.strip(), mode) if name and mode in ("min", "max") else (text.strip(), default)


def as_dict(value: Any) -> dict[str, Any]:
    """A struct as plain values, for JSON."""
    import msgspec

    result: dict[str, Any] = msgspec.to_builtins(value)
    return result


def find_wanted(repository: Repository, text: str | None) -> list[tuple[Run, CheckpointId]]:
    """Checkpoints that ``RUN[@AT]``, a pattern, or nothing (all) means; a bare run means all of its."""
    if text is not None and "@" in text:
        parsed = address(text)
        run = find_run(repository, parsed.run)
        return [(run, run.resolve(parsed.at))]
    return [(run, c) for run in find_runs(repository, text) for c in run.checkpoints()]


def find_checkpoint(repository: Repository, text: str) -> tuple[Run, CheckpointId]:
    """The one checkpoint that ``RUN[@AT]`` means: the latest of a bare run."""
    parsed = address(text)
    run = find_run(repository, parsed.run)
    return run, run.resolve(parsed.at)
